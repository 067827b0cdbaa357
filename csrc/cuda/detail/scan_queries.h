// Queries as the scan's inner loops take them: rounded to what the passages' type asks for, in the
// order in which lanes read them, in groups that share one pass over the passages.
//
//   bf16  rounded to bf16.
//   f16   scaled by a power of two per query, so that neither end of the range is lost, and rounded
//         to f16; the score is scaled back.
//   int8  16-bit integers with one scale per query, split as 256 high + low, both int8: two exact
//         int32 sums make the exact product of the integers.
//   f32   as they are.
#pragma once

#include <cstdint>

#include "cuda/detail/numbers.h"
#include "cuda/detail/simt.h"
#include "jsarag/scan.h"

namespace jsarag::cuda {

// Bytes of a row that a stage of the scan's pipeline holds: a chunk.
constexpr int kChunkBytes = 128;

// What certifies a score (cpu/detail/scan_certified.cpp derives it): the exact score is within
// a * row_error + b * row_norm + c of the computed one.
struct ScoreBound {
  float a, b, c;
};

// Queries packed in groups of `size`, a multiple of 8; what lies behind the last is zero.
struct PackedGroups {
  char* data;          // [groups][group_bytes]
  float* factors;      // [groups * size]: what a score is multiplied by
  ScoreBound* bounds;  // [groups * size], or null
  int64_t group_bytes;
  int size;
};

// Columns that rows are filled up to, and bytes of one packed query.
JSARAG_HOST_DEVICE inline int64_t row_chunks(ScalarType type, int64_t width) {
  return (width * scalar_bytes(type) + kChunkBytes - 1) / kChunkBytes;
}
JSARAG_HOST_DEVICE inline int64_t packed_query_bytes(ScalarType type, int64_t width) {
  return row_chunks(type, width) * kChunkBytes * (type == ScalarType::i8 ? 2 : 1);
}

__device__ inline uint16_t f16_rounded(float x) {
#if JSARAG_EMULATE_CUDA
  // To nearest even, by the CPU's own rounding of a float whose last bits stand for f16's.
  const float size = fabsf(x);
  const uint16_t sign = std::signbit(x) ? 0x8000 : 0;
  if (!(size < 65520.0f)) return static_cast<uint16_t>(sign | (x != x ? 0x7e00 : 0x7c00));
  if (size < 6.103515625e-05f)
    return static_cast<uint16_t>(sign | static_cast<uint16_t>(std::nearbyint(size * 16777216.0f)));
  int exponent = 0;
  const float fraction = std::frexp(size, &exponent);
  const auto number = static_cast<uint32_t>(std::nearbyint(fraction * 2048.0f));
  return static_cast<uint16_t>(sign | ((static_cast<uint32_t>(exponent + 13) << 10) + number));
#else
  return __half_as_ushort(__float2half_rn(x));
#endif
}

// The largest integer a query may hold: a sum over the width fits int32, and high fits int8.
JSARAG_HOST_DEVICE inline int integer_limit(int64_t width) {
  const int64_t fits = 2147483647 / (128 * (width > 1 ? width : 1));
  return static_cast<int>(fits < 1 ? 1 : fits > 32639 ? 32639 : fits);
}

// Error of a sum of `width` products relative to the product of the norms.
template <ScalarType kType>
__device__ inline double product_error(int64_t width) {
  constexpr double kUnit = 5.9604644775390625e-08;  // 2^-24
  if (kType == ScalarType::i8) return 4 * kUnit;
  // Tensor cores add 16 products to a sum by cutting all addends off at the largest one's last bit,
  // 2^-23 of it: at most 17 units of twice 2^-24 for 16 products; doubled, the order within an
  // instruction not being told.
  return 4.0 * static_cast<double>(width + 32) * kUnit * 1.01;
}
// The same for the f32 scan: fused sums over 128 numbers, which are added in order.
__device__ inline double exact_error(int64_t width) {
  constexpr double kUnit = 5.9604644775390625e-08;
  const double chunk = width < 128 ? static_cast<double>(width) : 128.0;
  return (2 * chunk + static_cast<double>((width + 127) / 128) + 4) * kUnit * 1.01;
}

constexpr int kPackThreads = 128;

struct PackingSums {
  double norm, rounded, error;
};

// Sums over the block; everybody gets them.
__device__ inline PackingSums block_sums(PackingSums own, PackingSums* shared) {
  const int thread = static_cast<int>(threadIdx.x);
  shared[thread] = own;
  __syncthreads();
  for (int half = kPackThreads / 2; half > 0; half /= 2) {
    if (thread < half) {
      shared[thread].norm += shared[thread + half].norm;
      shared[thread].rounded += shared[thread + half].rounded;
      shared[thread].error += shared[thread + half].error;
    }
    __syncthreads();
  }
  return shared[0];
}

// The largest finite size of a query's numbers, for the whole block; *broken: whether some are not
// finite.
__device__ inline float query_peak(const float* query, int64_t width, float* largest, int* broken) {
  const int thread = static_cast<int>(threadIdx.x);
  if (thread == 0) *broken = 0;
  __syncthreads();
  float peak = 0.0f;
  for (int64_t d = thread; d < width; d += kPackThreads) {
    const float size = fabsf(query[d]);
    if (size < kInfinity)
      peak = size > peak ? size : peak;
    else
      atomicExch(broken, 1);
  }
  largest[thread] = peak;
  __syncthreads();
  for (int half = kPackThreads / 2; half > 0; half /= 2) {
    if (thread < half && largest[thread + half] > largest[thread])
      largest[thread] = largest[thread + half];
    __syncthreads();
  }
  return largest[0];
}

// What an f16 query is multiplied by before it is rounded, and its scores afterwards: powers of two
// that bring the largest number into [2^14, 2^15). Both are normal numbers.
struct F16Scale {
  float scale, factor;
};
__device__ inline F16Scale f16_scale(float peak) {
  if (!(peak > 0.0f)) return {1.0f, 1.0f};
  int exponent = 0;
  frexpf(peak, &exponent);
  int shift = 15 - exponent;
  shift = shift > 126 ? 126 : shift < -113 ? -113 : shift;
  return {ldexpf(1.0f, shift), ldexpf(1.0f, -shift)};
}

// One block per packed query. A group's numbers lie as the lanes of a warp read them:
//   f32   [width / 4][size][4]
//   else  [width in steps of 32 bytes][size / 8][32 lanes][parts][2][4 bytes]: a lane's share of an
//         instruction's right operand, in the order of the instruction's registers.
template <ScalarType kType>
__global__ void __launch_bounds__(kPackThreads)
    pack_scan_queries_kernel(QueriesView queries, PackedGroups packed) {
  __shared__ float largest[kPackThreads];
  __shared__ int broken;
  __shared__ PackingSums sums[kPackThreads];
  const int thread = static_cast<int>(threadIdx.x);
  const int64_t query = blockIdx.x, width = queries.width;
  const bool there = query < queries.count;
  const float* own = queries.data + (there ? query : 0) * width;

  float scale = 1.0f, factor = 1.0f;
  const int limit = integer_limit(width);
  if (kType == ScalarType::i8 || kType == ScalarType::f16) {
    const float peak = query_peak(own, there ? width : 0, largest, &broken);
    if (kType == ScalarType::i8) {
      // A query that is not finite has NaN for every score.
      factor = broken ? kNan : peak / static_cast<float>(limit);
    } else {
      const F16Scale scales = f16_scale(peak);
      scale = scales.scale;
      factor = scales.factor;
    }
  }

  char* group = packed.data + query / packed.size * packed.group_bytes;
  const int slot = static_cast<int>(query % packed.size);
  const int64_t columns = row_chunks(kType, width) * kChunkBytes / scalar_bytes(kType);
  PackingSums sum{0.0, 0.0, 0.0};
  for (int64_t d = thread; d < columns; d += kPackThreads) {
    const float exact = there && d < width ? own[d] : 0.0f;
    double near = exact;
    if (kType == ScalarType::f32) {
      reinterpret_cast<float*>(group)[(d / 4 * packed.size + slot) * 4 + d % 4] = exact;
    } else if (kType == ScalarType::i8) {
      int number = 0;
      if (factor > 0.0f) {
        const double x = rint(static_cast<double>(exact) / factor);
        number = static_cast<int>(x > limit ? limit : x < -limit ? -limit : x);
      }
      near = static_cast<double>(number) * factor;
      const int high = (number + 128) >> 8;
      const int64_t lane = (d / 32 * (packed.size / 8) + slot / 8) * 32 + slot % 8 * 4 + d % 16 / 4;
      char* to = group + lane * 16 + d % 32 / 16 * 4 + d % 4;
      to[0] = static_cast<char>(high);
      to[8] = static_cast<char>(number - 256 * high);
    } else {
      const uint16_t bits =
          kType == ScalarType::bf16 ? bf16_bits(exact) : f16_rounded(exact * scale);
      near = kType == ScalarType::bf16
                 ? static_cast<double>(bf16_value(bits))
                 : static_cast<double>(f16_value(bits)) * static_cast<double>(factor);
      const int64_t lane = (d / 16 * (packed.size / 8) + slot / 8) * 32 + slot % 8 * 4 + d % 8 / 2;
      reinterpret_cast<uint16_t*>(group)[lane * 4 + d % 16 / 8 * 2 + d % 2] = bits;
    }
    sum.norm += static_cast<double>(exact) * exact;
    sum.rounded += near * near;
    sum.error += (exact - near) * (exact - near);
  }
  if (thread == 0) packed.factors[query] = factor;
  if (packed.bounds == nullptr) return;
  sum = block_sums(sum, sums);
  if (thread == 0) {
    constexpr double kInflate = 1.000001;  // for rounding in the bound's own arithmetic
    constexpr double kSmallest = 1.1754943508222875e-38;
    const double norm = sqrt(sum.norm), rounded = sqrt(sum.rounded), error = sqrt(sum.error);
    const double exact = exact_error(width);
    // The last term: the upper bound is itself rounded, and an f16 score when it is scaled back.
    const double b = error + product_error<kType>(width) * rounded + exact * norm +
                     4 * 5.9604644775390625e-08 * rounded;
    packed.bounds[query] = {static_cast<float>(norm * (1 + exact) * kInflate),
                            static_cast<float>(b * kInflate),
                            static_cast<float>(static_cast<double>(width) * 4 * kSmallest)};
  }
}

}  // namespace jsarag::cuda
