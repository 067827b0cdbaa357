// log_partition's gradient in f32 arithmetic, for f32 passages.
#pragma once

#include "cuda/detail/partition_gradient.h"

namespace jsarag::cuda {

constexpr int64_t kSimtQueries = 16;
constexpr int64_t kSimtWidths[] = {256, 512, 768, 1024};

struct alignas(16) Float4 {
  float x, y, z, w;
};

// Shape of a block: queries it sums for, rows it takes at a time, and columns, kColumns to a lane.
template <int kColumns>
struct SimtGradient {
  static constexpr int kQueries = kSimtQueries;
  static constexpr int kRows = 16;
  static constexpr int kWarpWidth = 32 * kColumns;
  static constexpr int kWidth = kGradientWarps * kWarpWidth;
  // A float4 more than the width: rows then lie in different banks.
  static constexpr int kStride = kWidth + 4;
  static constexpr int kPairs = kQueries * kRows;
  static_assert(kPairs == kGradientThreads);
  static_assert(kQueries <= kRows, "the sums pass through the rows' place");

  struct Shared {
    alignas(16) float rows[kRows * kStride];
    // Each warp's share of the scores, over its own columns.
    float shares[kGradientWarps][kPairs];
    alignas(16) float weights[kRows * kQueries];
    int marks[kPairs];
    int any;
  };
};

// Copies rows first .. first + kRows of a slab into shared memory; what is not there is 0.
template <int kColumns>
__device__ inline void load_rows(const GradientWork& work, uint32_t first, uint32_t end, int slab,
                                 float* rows) {
  using Shape = SimtGradient<kColumns>;
  constexpr int kQuads = Shape::kWidth / 4;
  const int column0 = slab * Shape::kWidth, width = static_cast<int>(work.width);
#pragma unroll 4
  for (int i = static_cast<int>(threadIdx.x); i < kQuads * Shape::kRows; i += kGradientThreads) {
    const int row = i / kQuads, quad = i % kQuads;
    const int left = width - column0 - 4 * quad;
    Float4 four{0.0f, 0.0f, 0.0f, 0.0f};
    if (first + row < end && left > 0) {
      const auto* from = reinterpret_cast<const float*>(
                             work.rows + static_cast<int64_t>(first + row) * work.row_bytes) +
                         column0 + 4 * quad;
      if (work.aligned && left >= 4) {
        four = *reinterpret_cast<const Float4*>(from);
      } else {
        four.x = from[0];
        if (left > 1) four.y = from[1];
        if (left > 2) four.z = from[2];
        if (left > 3) four.w = from[3];
      }
    }
    *reinterpret_cast<Float4*>(rows + row * Shape::kStride + 4 * quad) = four;
  }
}

template <int kColumns>
__global__ void __launch_bounds__(kGradientThreads, kColumns <= 3 ? 2 : 1)
    gradient_simt_kernel(GradientWork work) {
  using Shape = SimtGradient<kColumns>;
  auto& shared = *dynamic_shared<typename Shape::Shared>();
  const int thread = static_cast<int>(threadIdx.x), lane = thread % 32, warp = thread / 32;
  const GradientPart part = part_of(work, blockIdx.x);
  const int live = part.live;
  // Scores: a lane has queries lane / 8 + 4 i and rows lane % 8 + 8 j. Weights: one pair a thread.
  const int own_query = thread / Shape::kRows, own_row = thread % Shape::kRows;
  const float lse = own_query < live ? work.lse[part.query + own_query] : -kInfinity;
  const int slabs = static_cast<int>(work.slabs), packed_width = slabs * Shape::kWidth;
  const auto* queries = static_cast<const float*>(work.queries) +
                        (part.query + lane / 8) * packed_width + warp * Shape::kWarpWidth;
  const float* left_rows = shared.rows + lane % 8 * Shape::kStride + warp * Shape::kWarpWidth;
  float sums[Shape::kQueries][kColumns] = {};
  shared.marks[thread] = 0;
  bool flushed = false;

  // Row numbers are below 2^31; 32 bits hold the sums here too.
  const auto end = static_cast<uint32_t>(part.end);
  for (auto tile0 = static_cast<uint32_t>(part.first); tile0 < end; tile0 += kTile) {
    if (thread == 0) shared.any = 0;
    // For the sums that pass through the rows' place, too.
    __syncthreads();
    if (mark_excluded(work, part.query, live, tile0, kTile, nullptr)) atomicExch(&shared.any, 1);
    const uint32_t tile_end = tile0 + kTile < end ? tile0 + kTile : end;
    for (uint32_t first = tile0; first < tile_end; first += Shape::kRows) {
      float scores[4][2] = {};
      for (int j = 0; j < slabs; ++j) {
        // The block's own slab comes last and stays for the sums.
        const int slab = (static_cast<int>(part.slab) + 1 + j) % slabs;
        load_rows<kColumns>(work, first, tile_end, slab, shared.rows);
        __syncthreads();
        const float* query = queries + slab * Shape::kWidth;
#pragma unroll 1
        for (int k = 0; k < Shape::kWarpWidth; k += 4) {
          Float4 e[2];
#pragma unroll
          for (int r = 0; r < 2; ++r)
            e[r] = *reinterpret_cast<const Float4*>(left_rows + 8 * r * Shape::kStride + k);
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            const Float4 q = *reinterpret_cast<const Float4*>(query + 4 * i * packed_width + k);
#pragma unroll
            for (int r = 0; r < 2; ++r) {
              float& s = scores[i][r];
              s = fmaf(q.x, e[r].x, s);
              s = fmaf(q.y, e[r].y, s);
              s = fmaf(q.z, e[r].z, s);
              s = fmaf(q.w, e[r].w, s);
            }
          }
        }
        if (j + 1 < slabs) __syncthreads();
      }
#pragma unroll
      for (int i = 0; i < 4; ++i)
#pragma unroll
        for (int r = 0; r < 2; ++r)
          shared.shares[warp][(lane / 8 + 4 * i) * Shape::kRows + lane % 8 + 8 * r] = scores[i][r];
      if (shared.any) mark_excluded(work, part.query, live, first, Shape::kRows, shared.marks);
      __syncthreads();
      {
        float score = 0.0f;
#pragma unroll
        for (int w = 0; w < kGradientWarps; ++w) score += shared.shares[w][thread];
        const uint32_t row = first + static_cast<uint32_t>(own_row);
        const bool there = row < tile_end && !shared.marks[thread];
        shared.marks[thread] = 0;
        shared.weights[own_row * Shape::kQueries + own_query] =
            there ? passage_weight(score, work.inv_temperature, lse) : 0.0f;
      }
      __syncthreads();
#pragma unroll 1
      for (int r = 0; r < Shape::kRows; ++r) {
        float e[kColumns];
#pragma unroll
        for (int c = 0; c < kColumns; ++c)
          e[c] = shared.rows[r * Shape::kStride + warp * Shape::kWarpWidth + 32 * c + lane];
#pragma unroll
        for (int q = 0; q < Shape::kQueries; q += 4) {
          const Float4 w =
              *reinterpret_cast<const Float4*>(shared.weights + r * Shape::kQueries + q);
#pragma unroll
          for (int c = 0; c < kColumns; ++c) {
            sums[q][c] = fmaf(w.x, e[c], sums[q][c]);
            sums[q + 1][c] = fmaf(w.y, e[c], sums[q + 1][c]);
            sums[q + 2][c] = fmaf(w.z, e[c], sums[q + 2][c]);
            sums[q + 3][c] = fmaf(w.w, e[c], sums[q + 3][c]);
          }
        }
      }
      __syncthreads();
    }
    const bool last = tile_end == end;
    if (last || (tile0 / kTile + 1) % kFlushTiles == 0) {
      // By way of shared memory: the f64 sums are then added in rows.
#pragma unroll
      for (int q = 0; q < Shape::kQueries; ++q)
#pragma unroll
        for (int c = 0; c < kColumns; ++c) {
          shared.rows[q * Shape::kStride + warp * Shape::kWarpWidth + 32 * c + lane] = sums[q][c];
          sums[q][c] = 0.0f;
        }
      __syncthreads();
      const int64_t column0 = part.slab * Shape::kWidth;
      for (int q = 0; q < live; ++q) {
        double* to = work.partial + (part.split * work.batch + part.query + q) * work.width;
        for (int c = thread; c < Shape::kWidth && column0 + c < work.width; c += kGradientThreads)
          to[column0 + c] = (flushed ? to[column0 + c] : 0.0) +
                            static_cast<double>(shared.rows[q * Shape::kStride + c]);
      }
      flushed = true;
    }
  }
}

}  // namespace jsarag::cuda
