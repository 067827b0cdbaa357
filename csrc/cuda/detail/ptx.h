// The few instructions that CUDA C++ has no words for, each with a twin that the emulation runs.
// Warp-wide ones are for all 32 lanes.
#pragma once

#include "cuda/detail/simt.h"

namespace jsarag::cuda {

#if JSARAG_EMULATE_CUDA

inline void cp_async_16(void* to, const void* from) { emulated::copy_16(to, from); }
inline void cp_async_commit() { emulated::commit_copies(); }
template <int kPending>
void cp_async_wait() {
  emulated::wait_copies(kPending);
}
inline void ldmatrix_x4(uint32_t* to, const void* row) { emulated::load_matrices(to, row, false); }
inline void ldmatrix_x4_trans(uint32_t* to, const void* row) {
  emulated::load_matrices(to, row, true);
}
inline void mma_bf16(float* sum, const uint32_t* a, const uint32_t* b) {
  emulated::multiply_16x8x16(sum, a, b, bf16_value);
}
inline void mma_f16(float* sum, const uint32_t* a, const uint32_t* b) {
  emulated::multiply_16x8x16(sum, a, b, f16_value);
}
inline float exp2_approximate(float x) { return std::exp2(x); }
inline float divide_approximate(float x, float y) { return x / y; }
inline void mma_s8(int* sum, const uint32_t* a, const uint32_t* b) {
  emulated::multiply_16x8x32(sum, a, b);
}

#else

__device__ inline uint32_t shared_address(const void* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

// Begins to copy 16 bytes from global to shared memory; both addresses are 16-byte aligned.
__device__ inline void cp_async_16(void* to, const void* from) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared_address(to)), "l"(from)
               : "memory");
}
// Closes a group of copies.
__device__ inline void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Waits until at most kPending of this thread's groups are under way.
template <int kPending>
__device__ inline void cp_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

// Four 8 x 8 matrices of 16-bit numbers: lane l gives the address of row l % 8 of matrix l / 8.
__device__ inline void ldmatrix_x4(uint32_t* to, const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(shared_address(row))
               : "memory");
}
__device__ inline void ldmatrix_x4_trans(uint32_t* to, const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(shared_address(row))
               : "memory");
}

// sum [16, 8] f32 += a [16, 16] * b [16, 8] of bf16.
__device__ inline void mma_bf16(float* sum, const uint32_t* a, const uint32_t* b) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// The same of f16.
__device__ inline void mma_f16(float* sum, const uint32_t* a, const uint32_t* b) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// sum [16, 8] i32 += a [16, 32] * b [32, 8] of i8.
__device__ inline void mma_s8(int* sum, const uint32_t* a, const uint32_t* b) {
  asm volatile(
      "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+r"(sum[0]), "+r"(sum[1]), "+r"(sum[2]), "+r"(sum[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// 2^x within 2^-22 of itself; results below the smallest normal number are 0.
__device__ inline float exp2_approximate(float x) {
  float result;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
  return result;
}

// x / y within two units in the last place, for y below 2^126.
__device__ inline float divide_approximate(float x, float y) { return __fdividef(x, y); }

#endif

}  // namespace jsarag::cuda
