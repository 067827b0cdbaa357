// passage_logp with AVX2 and FMA, f32 units.
#include <immintrin.h>

#include "cpu/detail/passage_logp_kernels.h"

namespace jsarag::cpu {
namespace {

struct Avx2 {
  using F = __m256;
  // 4 x 24: 12 sums, 3 right vectors and a broadcast in 16 registers.
  static constexpr int kLanes = 8, kRows = 4, kVectors = 3;
  static constexpr int64_t kUnitBlock = 256, kSquare = 0;

  static F load(const float* p) { return _mm256_loadu_ps(p); }
  static void store(float* p, F a) { _mm256_storeu_ps(p, a); }
  static F set1(float a) { return _mm256_set1_ps(a); }
  static F zero() { return _mm256_setzero_ps(); }
  static F add(F a, F b) { return _mm256_add_ps(a, b); }
  static F sub(F a, F b) { return _mm256_sub_ps(a, b); }
  static F mul(F a, F b) { return _mm256_mul_ps(a, b); }
  static F div(F a, F b) { return _mm256_div_ps(a, b); }
  static F fma(F a, F b, F c) { return _mm256_fmadd_ps(a, b, c); }
  static F max(F a, F b) { return _mm256_max_ps(a, b); }
  static F abs(F a) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a); }
  static F round(F a) { return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
  // 2^n as a bit pattern; below the normal range the result is 0, not a denormal.
  static F scale2(F a, F n) {
    const __m256i exponent = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
    const __m256i power = _mm256_slli_epi32(exponent, 23);
    const __m256i normal = _mm256_cmpgt_epi32(exponent, _mm256_setzero_si256());
    const F scaled = mul(a, _mm256_castsi256_ps(_mm256_and_si256(power, normal)));
    // A NaN has no exponent; it must not become 0.
    return _mm256_blendv_ps(scaled, a, _mm256_cmp_ps(a, a, _CMP_UNORD_Q));
  }
  static F less(F a, F b, F then, F other) {
    return _mm256_blendv_ps(other, then, _mm256_cmp_ps(a, b, _CMP_LT_OQ));
  }
  static float sum(F a) {
    alignas(32) float lane[kLanes];
    _mm256_store_ps(lane, a);
    return ((lane[0] + lane[4]) + (lane[2] + lane[6])) +
           ((lane[1] + lane[5]) + (lane[3] + lane[7]));
  }
  static float highest(F a) {
    alignas(32) float lane[kLanes];
    _mm256_store_ps(lane, a);
    float best = lane[0];
    for (int i = 1; i < kLanes; ++i) best = lane[i] > best ? lane[i] : best;
    return best;
  }
  static F dot(F sum, F a, F b) { return _mm256_fmadd_ps(a, b, sum); }
  static void spread(const GradBlock& block, int64_t padded) { spread_f32<Avx2>(block, padded); }
  static void sum_words(const float* by_word, int64_t token_units, float* out) {
    sum_words_f32<Avx2>(by_word, token_units, out);
  }
};

}  // namespace

const Engine kPassageLogpAvx2 = make_engine<Avx2, false>();

}  // namespace jsarag::cpu
