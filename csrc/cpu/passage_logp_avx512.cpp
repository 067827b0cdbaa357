// passage_logp with AVX-512, f32 units (bf16 operands are widened as they are packed).
#include <immintrin.h>

#include "cpu/detail/passage_logp_avx512_vector.h"

namespace jsarag::cpu {
namespace {

struct Avx512 : Avx512Base {
  static F dot(F sum, F a, F b) { return _mm512_fmadd_ps(a, b, sum); }
  static void spread(const GradBlock& block, int64_t padded) { spread_f32<Avx512>(block, padded); }
  static void sum_words(const float* by_word, int64_t token_units, float* out) {
    sum_words_f32<Avx512>(by_word, token_units, out);
  }
};

}  // namespace

const Engine kPassageLogpAvx512 = make_engine<Avx512, false>();

}  // namespace jsarag::cpu
