// The vector type of both AVX-512 engines.
#pragma once

#include <immintrin.h>

#include "cpu/detail/passage_logp_kernels.h"

#if defined(__GNUC__) && !defined(__clang__)
// GCC 12 sees its own _mm512_undefined_ps() as uninitialised (GCC bug 105593).
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif

namespace jsarag::cpu {
namespace {

struct Avx512Base {
  using F = __m512;
  // 8 x 48: 24 sums, 3 right vectors and a broadcast in 32 registers, 11 loads for 24 products.
  static constexpr int kLanes = 16, kRows = 8, kVectors = 3;
  static constexpr int64_t kUnitBlock = 256;

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
