// The vector type of both AVX-512 engines.
#pragma once

#include <immintrin.h>

#include "cpu/detail/passage_logp_kernels.h"

#if defined(__GNUC__) && !defined(__clang__)
// GCC 12 sees its own _mm512_undefined_ps() as uninitialised (GCC bug 105593).
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif

namespace jsarag::cpu {
namespace {

struct Avx512Base {
  using F = __m512;
  // 8 x 48: 24 sums, 3 right vectors and a broadcast in 32 registers, 11 loads for 24 products.
  static constexpr int kLanes = 16, kRows = 8, kVectors = 3;
  static constexpr int64_t kUnitBlock = 256;

  static constexpr int64_t kSquare = 16;

  // 16 x 16 units: pairs of rows, of units, of quarters, of halves change places.
  static void turn(const char* const* rows, int64_t byte, float* out, int64_t stride) {
    __m512i a[16], b[16];
#pragma GCC unroll 16
    for (int i = 0; i < 16; ++i) a[i] = _mm512_loadu_si512(rows[i] + byte);
#pragma GCC unroll 8
    for (int i = 0; i < 16; i += 2) {
      b[i] = _mm512_unpacklo_epi32(a[i], a[i + 1]);
      b[i + 1] = _mm512_unpackhi_epi32(a[i], a[i + 1]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 16; i += 4) {
      a[i] = _mm512_unpacklo_epi64(b[i], b[i + 2]);
      a[i + 1] = _mm512_unpackhi_epi64(b[i], b[i + 2]);
      a[i + 2] = _mm512_unpacklo_epi64(b[i + 1], b[i + 3]);
      a[i + 3] = _mm512_unpackhi_epi64(b[i + 1], b[i + 3]);
    }
    // a[4 g + c] holds, in quarter q, unit 4 q + c of rows 4 g .. 4 g + 3.
#pragma GCC unroll 4
    for (int c = 0; c < 4; ++c) {
      const __m512i low = _mm512_shuffle_i32x4(a[c], a[4 + c], 0x44);
      const __m512i high = _mm512_shuffle_i32x4(a[c], a[4 + c], 0xee);
      const __m512i low2 = _mm512_shuffle_i32x4(a[8 + c], a[12 + c], 0x44);
      const __m512i high2 = _mm512_shuffle_i32x4(a[8 + c], a[12 + c], 0xee);
      _mm512_storeu_si512(out + c * stride, _mm512_shuffle_i32x4(low, low2, 0x88));
      _mm512_storeu_si512(out + (4 + c) * stride, _mm512_shuffle_i32x4(low, low2, 0xdd));
      _mm512_storeu_si512(out + (8 + c) * stride, _mm512_shuffle_i32x4(high, high2, 0x88));
      _mm512_storeu_si512(out + (12 + c) * stride, _mm512_shuffle_i32x4(high, high2, 0xdd));
    }
  }
  static F load(const float* p) { return _mm512_loadu_ps(p); }
  static void store(float* p, F a) { _mm512_storeu_ps(p, a); }
  static F set1(float a) { return _mm512_set1_ps(a); }
  static F zero() { return _mm512_setzero_ps(); }
  static F add(F a, F b) { return _mm512_add_ps(a, b); }
  static F sub(F a, F b) { return _mm512_sub_ps(a, b); }
  static F mul(F a, F b) { return _mm512_mul_ps(a, b); }
  static F div(F a, F b) { return _mm512_div_ps(a, b); }
  static F fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
  static F max(F a, F b) { return _mm512_max_ps(a, b); }
  static F abs(F a) { return _mm512_abs_ps(a); }
  static F round(F a) {
    return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  }
  static F scale2(F a, F n) { return _mm512_scalef_ps(a, n); }
  static F less(F a, F b, F then, F other) {
    return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, b, _CMP_LT_OQ), other, then);
  }
  static float sum(F a) { return _mm512_reduce_add_ps(a); }
  static float highest(F a) { return _mm512_reduce_max_ps(a); }
};

}  // namespace
}  // namespace jsarag::cpu
