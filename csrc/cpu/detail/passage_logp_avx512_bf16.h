// What both bf16 engines do with a block's gradient: round it once, lay it out for both products.
#pragma once

#include <immintrin.h>

#include "cpu/detail/passage_logp_avx512_vector.h"

namespace jsarag::cpu {
namespace {

inline __m512 dot_pairs(__m512 sum, __m512 a, __m512 b) {
  return _mm512_dpbf16_ps(sum, reinterpret_cast<__m512bh>(a), reinterpret_cast<__m512bh>(b));
}

// 16 bf16 in the low halves of 32-bit lanes.
inline __m512i round16(__m512 a) {
  return _mm512_cvtepu16_epi32(reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(a)));
}

inline void store16(float* row, int64_t word, __m512i low) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(reinterpret_cast<char*>(row) + word * 2),
                      _mm512_cvtepi32_epi16(low));
}

// Pairs of words in a token's row (by_token), pairs of tokens in a word's column (by_word).
template <class V>
void spread_pairs(const GradBlock& block, int64_t padded) {
  constexpr int64_t kColumns = V::kVectors * V::kLanes;
  for (int64_t i = 0; i < kTokenBlock; i += 2) {
    const float* even = block.products + i * kLogitsStride;
    const float* odd = even + kLogitsStride;
    float* even_row = block.by_token + i * kLogitsStride;
    float* odd_row = even_row + kLogitsStride;
    for (int64_t column = 0; column < padded; column += kColumns) {
      float* to = block.by_word + column * block.token_units + i / 2 * kColumns;
      for (int64_t v = 0; v < kColumns; v += V::kLanes) {
        const __m512i low = round16(V::load(even + column + v));
        const __m512i high = round16(V::load(odd + column + v));
        store16(even_row, column + v, low);
        store16(odd_row, column + v, high);
        _mm512_storeu_si512(to + v, _mm512_or_si512(low, _mm512_slli_epi32(high, 16)));
      }
    }
  }
}

template <class V>
void sum_words_pairs(const float* by_word, int64_t token_units, float* out) {
  __m512 sum[V::kVectors];
  for (int j = 0; j < V::kVectors; ++j) sum[j] = V::zero();
  const __m512 ones = _mm512_castsi512_ps(_mm512_set1_epi32(0x3f803f80));
  for (int64_t u = 0; u < token_units; ++u) {
    for (int j = 0; j < V::kVectors; ++j) {
      sum[j] = dot_pairs(sum[j], V::load(by_word + (u * V::kVectors + j) * V::kLanes), ones);
    }
  }
  for (int j = 0; j < V::kVectors; ++j) V::store(out + j * V::kLanes, sum[j]);
}

}  // namespace
}  // namespace jsarag::cpu
