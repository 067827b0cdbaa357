// passage_logp with AVX-512 and its bf16 dot product: units are pairs of bf16, sums are f32.
#include <immintrin.h>

#include "cpu/detail/passage_logp_avx512_vector.h"

namespace jsarag::cpu {
namespace {

struct Avx512Bf16 : Avx512Base {
  static F dot(F sum, F a, F b) {
    return _mm512_dpbf16_ps(sum, reinterpret_cast<__m512bh>(a), reinterpret_cast<__m512bh>(b));
  }

  // Rounds a block's gradient to bf16 once and lays it out for both products: pairs of words in a
  // token's row (by_token), pairs of tokens in a word's column (by_word).
  static void spread(const GradBlock& block, int64_t padded) {
    constexpr int64_t kColumns = kVectors * kLanes;
    for (int64_t i = 0; i < kTokenBlock; i += 2) {
      const float* even = block.products + i * kLogitsStride;
      const float* odd = even + kLogitsStride;
      float* even_row = block.by_token + i * kLogitsStride;
      float* odd_row = even_row + kLogitsStride;
      for (int64_t column = 0; column < padded; column += kColumns) {
        float* to = block.by_word + column * block.token_units + i / 2 * kColumns;
        for (int64_t v = 0; v < kColumns; v += kLanes) {
          const __m512i low = round16(load(even + column + v));
          const __m512i high = round16(load(odd + column + v));
          store16(even_row, column + v, low);
          store16(odd_row, column + v, high);
          const __m512i pairs = _mm512_or_si512(low, _mm512_slli_epi32(high, 16));
          _mm512_storeu_si512(to + v, pairs);
        }
      }
    }
  }

  static void sum_words(const float* by_word, int64_t token_units, float* out) {
    F sum[kVectors];
    for (int j = 0; j < kVectors; ++j) sum[j] = zero();
    const F ones = _mm512_castsi512_ps(_mm512_set1_epi32(0x3f803f80));
    for (int64_t u = 0; u < token_units; ++u) {
      for (int j = 0; j < kVectors; ++j) {
        sum[j] = dot(sum[j], load(by_word + (u * kVectors + j) * kLanes), ones);
      }
    }
    for (int j = 0; j < kVectors; ++j) store(out + j * kLanes, sum[j]);
  }

 private:
  // 16 bf16 in the low halves of 32-bit lanes.
  static __m512i round16(F a) {
    return _mm512_cvtepu16_epi32(reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(a)));
  }
  static void store16(float* row, int64_t word, __m512i low) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(reinterpret_cast<char*>(row) + word * 2),
                        _mm512_cvtepi32_epi16(low));
  }
};

}  // namespace

const Engine kPassageLogpAvx512Bf16 = make_engine<Avx512Bf16, true>();

}  // namespace jsarag::cpu
