// What kernels of our own are written in: CUDA under nvcc, or an emulation of it on the CPU
// (JSARAG_EMULATE_CUDA), so that tests run the very same kernels where there is no GPU.
#pragma once

#include <cstdint>
#include <cstring>

#if JSARAG_EMULATE_CUDA
#include "emulated_cuda.h"
#define JSARAG_HOST_DEVICE
#else
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#define JSARAG_HOST_DEVICE __host__ __device__
#endif

namespace jsarag::cuda {

// The bits of x rounded to bf16, to nearest even; NaN stays NaN.
__device__ inline uint16_t bf16_bits(float x) {
#if JSARAG_EMULATE_CUDA
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return 0x7fff;
  return static_cast<uint16_t>((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
#else
  return __bfloat16_as_ushort(__float2bfloat16_rn(x));
#endif
}

// Two of them in one register, the first in the low half.
__device__ inline uint32_t bf16_pair(float first, float second) {
  return bf16_bits(first) | static_cast<uint32_t>(bf16_bits(second)) << 16;
}

__device__ inline float bf16_value(uint16_t bits) {
  return __uint_as_float(static_cast<uint32_t>(bits) << 16);
}

__device__ inline float f16_value(uint16_t bits) {
#if JSARAG_EMULATE_CUDA
  return emulated::f16_value(bits);
#else
  return __half2float(__ushort_as_half(bits));
#endif
}

// The block's dynamic shared memory, 16-byte aligned.
template <class T>
__device__ inline T* dynamic_shared() {
#if JSARAG_EMULATE_CUDA
  return static_cast<T*>(emulated::dynamic_shared());
#else
  extern __shared__ __align__(16) unsigned char dynamic_shared_bytes[];
  return reinterpret_cast<T*>(dynamic_shared_bytes);
#endif
}

}  // namespace jsarag::cuda
