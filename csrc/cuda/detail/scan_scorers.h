// Scores of 32 passages against a group of queries, by one warp: the inner loop of the scan.
//
// Each chunk is 128 bytes of 32 rows in shared memory, swizzled (detail/swizzle.h), so that a
// lane's walk along its own row meets no bank twice, either. What a score is made of depends on its
// passage and query alone, never on what stands beside them.
#pragma once

#include <cstdint>
#include <type_traits>

#include "cuda/detail/ptx.h"
#include "cuda/detail/scan_queries.h"
#include "cuda/detail/simt.h"
#include "cuda/detail/swizzle.h"
#include "jsarag/scan.h"

namespace jsarag::cuda {

constexpr int kWarpRows = 32;
constexpr int kChunkPieces = kSwizzledPieces;
static_assert(kChunkBytes == kSwizzledBytes);

// Tensor cores: passages are an instruction's 16 rows, queries its 8 columns. A lane ends with four
// rows (`row`) of 2 * kBlocks queries (`query`).
template <ScalarType kType, int kBlocks>
struct TensorScorer {
  static constexpr ScalarType kScalar = kType;
  static constexpr bool kIntegers = kType == ScalarType::i8;
  static constexpr int kQueries = 8 * kBlocks;
  static constexpr int kColumns = 2 * kBlocks;  // queries per lane
  static constexpr int kRows = 4;               // passages per lane
  static constexpr int kSpread = 4;  // lanes l and l ^ kSpread, ... have the same queries
  static constexpr int kParts = kIntegers ? 2 : 1;
  using Sum = std::conditional_t<kIntegers, int, float>;

  struct alignas(8 * kParts) Operand {
    uint32_t part[kParts][2];
  };

  Sum sum[kParts][2][kBlocks][4];

  __device__ void begin() {
#pragma unroll
    for (int p = 0; p < kParts; ++p)
#pragma unroll
      for (int m = 0; m < 2; ++m)
#pragma unroll
        for (int n = 0; n < kBlocks; ++n)
#pragma unroll
          for (int i = 0; i < 4; ++i) sum[p][m][n][i] = 0;
  }

  // Adds a chunk, number `chunk` of the row.
  __device__ void add(const char* rows, const char* queries, int chunk, int lane) {
    const auto* operands = reinterpret_cast<const Operand*>(queries) +
                           static_cast<int64_t>(chunk) * (kChunkPieces / 2) * kBlocks * 32 + lane;
#pragma unroll
    for (int step = 0; step < kChunkPieces / 2; ++step) {
      uint32_t left[2][4];
#pragma unroll
      for (int m = 0; m < 2; ++m)
        ldmatrix_x4(left[m], rows + piece_offset(16 * m + lane % 16, 2 * step + lane / 16));
#pragma unroll
      for (int n = 0; n < kBlocks; ++n) {
        const Operand right = operands[(step * kBlocks + n) * 32];
#pragma unroll
        for (int m = 0; m < 2; ++m)
#pragma unroll
          for (int p = 0; p < kParts; ++p) multiply(sum[p][m][n], left[m], right.part[p]);
      }
    }
  }
  __device__ void end(int) {}

  static __device__ int query(int column, int lane) {
    return column / 2 * 8 + lane % 4 * 2 + column % 2;
  }
  static __device__ int row(int r, int lane) { return r / 2 * 16 + r % 2 * 8 + lane / 4; }
  __device__ float score(int column, int r) const {
    const int n = column / 2, i = r % 2 * 2 + column % 2, m = r / 2;
    if constexpr (kIntegers) return static_cast<float>(256 * sum[0][m][n][i] + sum[1][m][n][i]);
    return static_cast<float>(sum[0][m][n][i]);
  }

 private:
  static __device__ void multiply(Sum* to, const uint32_t* a, const uint32_t* b) {
    if constexpr (kType == ScalarType::bf16)
      mma_bf16(to, a, b);
    else if constexpr (kType == ScalarType::f16)
      mma_f16(to, a, b);
    else
      mma_s8(to, a, b);
  }
};

// f32: a lane owns one row and adds fused products in the order of the columns; the sum restarts
// every 128 numbers, and the partial sums are added in order.
template <int kCount>
struct FloatScorer {
  static constexpr ScalarType kScalar = ScalarType::f32;
  static constexpr bool kIntegers = false;
  static constexpr int kQueries = kCount;
  static constexpr int kColumns = kCount;
  static constexpr int kRows = 1;
  static constexpr int kSpread = 1;
  static constexpr int kChunksPerSum = 128 * 4 / kChunkBytes;

  struct alignas(16) Four {
    float x, y, z, w;
  };

  float sum[kCount], total[kCount];

  __device__ void begin() {
#pragma unroll
    for (int q = 0; q < kCount; ++q) sum[q] = total[q] = 0.0f;
  }
  __device__ void add(const char* rows, const char* queries, int chunk, int lane) {
    const auto* numbers = reinterpret_cast<const Four*>(queries) +
                          static_cast<int64_t>(chunk) * kChunkPieces * kCount;
#pragma unroll 2
    for (int piece = 0; piece < kChunkPieces; ++piece) {
      const Four x = *reinterpret_cast<const Four*>(rows + piece_offset(lane, piece));
#pragma unroll
      for (int q = 0; q < kCount; ++q) {
        const Four y = numbers[piece * kCount + q];
        sum[q] = fmaf(x.x, y.x, sum[q]);
        sum[q] = fmaf(x.y, y.y, sum[q]);
        sum[q] = fmaf(x.z, y.z, sum[q]);
        sum[q] = fmaf(x.w, y.w, sum[q]);
      }
    }
    if (chunk % kChunksPerSum == kChunksPerSum - 1) restart();
  }
  __device__ void end(int chunks) {
    if (chunks % kChunksPerSum != 0) restart();
  }
  static __device__ int query(int column, int) { return column; }
  static __device__ int row(int, int lane) { return lane; }
  __device__ float score(int column, int) const { return total[column]; }

 private:
  __device__ void restart() {
#pragma unroll
    for (int q = 0; q < kCount; ++q) {
      total[q] += sum[q];
      sum[q] = 0.0f;
    }
  }
};

// The same sum for a row wherever it lies, by one thread.
__device__ inline float exact_score(const float* query, const float* row, int64_t width,
                                    bool aligned) {
  struct alignas(16) Four {
    float x, y, z, w;
  };
  float total = 0.0f;
  for (int64_t start = 0; start < width; start += 128) {
    const int count = static_cast<int>(width - start < 128 ? width - start : 128);
    float sum = 0.0f;
    int d = 0;
    if (aligned) {
#pragma unroll 4
      for (; d + 4 <= count; d += 4) {
        const Four x = *reinterpret_cast<const Four*>(row + start + d);
        sum = fmaf(x.x, query[start + d], sum);
        sum = fmaf(x.y, query[start + d + 1], sum);
        sum = fmaf(x.z, query[start + d + 2], sum);
        sum = fmaf(x.w, query[start + d + 3], sum);
      }
    }
    for (; d < count; ++d) sum = fmaf(row[start + d], query[start + d], sum);
    total += sum;
  }
  return total;
}

}  // namespace jsarag::cuda
