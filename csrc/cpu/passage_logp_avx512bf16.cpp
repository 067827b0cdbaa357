// passage_logp with AVX-512 and its bf16 dot product: units are pairs of bf16, sums are f32.
#include <immintrin.h>

#include "cpu/detail/passage_logp_avx512_bf16.h"

namespace jsarag::cpu {
namespace {

struct Avx512Bf16 : Avx512Base {
  static F dot(F sum, F a, F b) { return dot_pairs(sum, a, b); }
  static void spread(const GradBlock& block, int64_t padded) {
    spread_pairs<Avx512Bf16>(block, padded);
  }
  static void sum_words(const float* by_word, int64_t token_units, float* out) {
    sum_words_pairs<Avx512Bf16>(by_word, token_units, out);
  }
};

}  // namespace

const Engine kPassageLogpAvx512Bf16 = make_engine<Avx512Bf16, true>();

}  // namespace jsarag::cpu
