// log_partition's gradient on tensor cores, for bf16, f16 and int8 passages.
//
// All products are of bf16 numbers. What bf16 cannot hold comes as two of them, high + low: a
// weight and a query of int8 rows within 2^-17 of itself, an f16 number exactly (an int8 number is
// one bf16 number already). Of the products of two such pairs low times low is left out. Queries of
// bf16 and f16 rows are rounded to their precision, as in the scan.
#pragma once

#include "cuda/detail/element.h"
#include "cuda/detail/partition_gradient.h"
#include "cuda/detail/ptx.h"

namespace jsarag::cuda {

constexpr int64_t kMmaQueries = 32;
constexpr int kMostStages = 4;
// Columns of a block, by type: the widest whose kernel keeps to its registers and to the shared
// memory of small devices.
constexpr int64_t kMmaWidths[] = {256, 384, 512, 768, 1024};
constexpr int64_t mma_widths(ScalarType type) {
  return type == ScalarType::bf16 ? 5 : type == ScalarType::i8 ? 4 : 3;
}

// bf16 numbers that stand for one number of a query.
constexpr int query_parts(ScalarType type) { return type == ScalarType::bf16 ? 1 : 2; }

// Shape of a block: each warp owns kBlocks 8-column blocks of the sums of all 32 queries.
template <ScalarType kType, int kBlocks>
struct MmaGradient {
  static constexpr int kQueries = kMmaQueries;
  static constexpr int kRows = 32;
  static constexpr int kWarpWidth = 8 * kBlocks;
  static constexpr int kWidth = kGradientWarps * kWarpWidth;
  // 16 bytes more than a multiple of 128: eight rows' pieces lie in different banks.
  static constexpr int kStride = kWidth + 8;
  static constexpr int kWeightStride = kRows + 8;
  static constexpr int kPairs = kQueries * kRows;
  static constexpr int kSteps = kWidth / 16;
  static constexpr int kQueryParts = query_parts(kType);
  // int8 rows arrive as they are and are widened to bf16 in a place of their own.
  static constexpr bool kWiden = kType == ScalarType::i8;
  // Independent chains of products of a score, so that one need not wait for another.
  static constexpr int kChains = 4;
  static constexpr int kPiece = 16 / static_cast<int>(scalar_bytes(kType));
  static constexpr int kStageBytes = kRows * (kWiden ? kWidth : 2 * kStride);

  // Behind it lie the widened rows, if any, and the stages of arriving rows.
  struct alignas(16) Shared {
    alignas(16) uint16_t high[kQueries * kWeightStride];
    alignas(16) uint16_t low[kQueries * kWeightStride];
    int marks[kPairs];
    float lse[kQueries];
    int any;
  };
  static constexpr size_t kWidenedBytes = kWiden ? 2 * kRows * kStride : 0;
  static constexpr size_t bytes(int stages) {
    return sizeof(Shared) + kWidenedBytes + static_cast<size_t>(stages) * kStageBytes;
  }
};

__device__ inline float pair_first(uint32_t pair) {
  return bf16_value(static_cast<uint16_t>(pair & 0xffffu));
}
__device__ inline float pair_second(uint32_t pair) {
  return bf16_value(static_cast<uint16_t>(pair >> 16));
}

// Two numbers as high + low.
struct SplitPair {
  uint32_t high, low;
};
__device__ inline SplitPair split_pair(float x, float y) {
  const uint32_t high = bf16_pair(x, y);
  return {high, bf16_pair(x - pair_first(high), y - pair_second(high))};
}

// One 16 x 16 block of the queries as tensor cores take it: what a lane holds.
constexpr int64_t kFragmentNumbers = 8;
struct alignas(16) QueryFragment {
  uint32_t pair[4];
};

// Packs queries as fragments, [groups][slabs * steps][2 halves][32 lanes][parts], zeros where
// nothing is.
template <ScalarType kType>
__global__ void __launch_bounds__(kGradientThreads)
    pack_queries_kernel(GradientWork work, const float* queries, QueryFragment* packed) {
  constexpr int kParts = query_parts(kType);
  const int64_t steps = work.slabs * work.slab_width / 16;
  const int64_t at = static_cast<int64_t>(blockIdx.x) * kGradientThreads + threadIdx.x;
  if (at >= work.groups * steps * 64) return;
  const int lane = static_cast<int>(at % 32), half = static_cast<int>(at / 32 % 2);
  const int64_t step = at / 64 % steps, group = at / 64 / steps;
  QueryFragment high, low;
#pragma unroll
  for (int part = 0; part < 4; ++part) {
    const int64_t query = group * kMmaQueries + 16 * half + lane / 4 + part % 2 * 8;
    const int64_t column = 16 * step + lane % 4 * 2 + part / 2 * 8;
    const auto number = [&](int64_t d) {
      return query < work.batch && d < work.width
                 ? round_query<kType>(queries[query * work.width + d])
                 : 0.0f;
    };
    const SplitPair split = split_pair(number(column), number(column + 1));
    high.pair[part] = split.high;
    low.pair[part] = split.low;
  }
  packed[kParts * at] = high;
  if (kParts > 1) packed[kParts * at + 1] = low;
}

// Begins to copy rows first .. first + kRows of a slab into shared memory; what is not there is 0.
template <ScalarType kType, int kBlocks>
__device__ inline void fetch_rows(const GradientWork& work, uint32_t first, uint32_t end, int slab,
                                  char* rows) {
  using Shape = MmaGradient<kType, kBlocks>;
  using Storage = typename Element<kType>::Storage;
  constexpr int kPiece = Shape::kPiece, kPieces = Shape::kWidth / kPiece;
  constexpr int kStride = Shape::kWiden ? Shape::kWidth : Shape::kStride;
  const int width = static_cast<int>(work.width);
#pragma unroll 2
  for (int i = static_cast<int>(threadIdx.x); i < kPieces * Shape::kRows; i += kGradientThreads) {
    const int row = i / kPieces, column = i % kPieces * kPiece;
    const int left = width - slab * Shape::kWidth - column;
    auto* to = reinterpret_cast<Storage*>(rows) + row * kStride + column;
    const bool there = first + row < end;
    const auto* from = reinterpret_cast<const Storage*>(
                           work.rows + static_cast<int64_t>(first + row) * work.row_bytes) +
                       slab * Shape::kWidth + column;
    if (there && work.aligned && left >= kPiece) {
      cp_async_16(to, from);
    } else {
#pragma unroll 1
      for (int e = 0; e < kPiece; ++e) to[e] = there && e < left ? from[e] : Storage{0};
    }
  }
}

// Waits for a step's rows where those of the next stages - 2 steps are under way too.
__device__ inline void wait_for_stage(int stages) {
  if (stages == kMostStages)
    cp_async_wait<kMostStages - 2>();
  else if (stages == 3)
    cp_async_wait<1>();
  else
    cp_async_wait<0>();
}

// int8 rows as bf16.
template <int kBlocks>
__device__ inline void widen_rows(const char* from, uint16_t* to) {
  using Shape = MmaGradient<ScalarType::i8, kBlocks>;
  constexpr int kQuads = Shape::kWidth / 4;
#pragma unroll 4
  for (int i = static_cast<int>(threadIdx.x); i < kQuads * Shape::kRows; i += kGradientThreads) {
    const int row = i / kQuads, column = i % kQuads * 4;
    const uint32_t four = *reinterpret_cast<const uint32_t*>(from + row * Shape::kWidth + column);
    const auto number = [&](int at) {
      return static_cast<float>(static_cast<int8_t>(four >> (8 * at) & 0xffu));
    };
    auto* pairs = reinterpret_cast<uint32_t*>(to + row * Shape::kStride + column);
    pairs[0] = bf16_pair(number(0), number(1));
    pairs[1] = bf16_pair(number(2), number(3));
  }
}

// Rows in a tensor core's layout, and what f16 leaves beside bf16.
template <ScalarType kType, int kCount>
struct RowFragment {
  uint32_t high[kCount];
  uint32_t low[kType == ScalarType::f16 ? kCount : 1];

  // From `high` as loaded.
  __device__ void split() {
    if constexpr (kType == ScalarType::f16) {
#pragma unroll
      for (int i = 0; i < kCount; ++i) {
        const SplitPair pair = split_pair(f16_value(static_cast<uint16_t>(high[i] & 0xffffu)),
                                          f16_value(static_cast<uint16_t>(high[i] >> 16)));
        high[i] = pair.high;
        low[i] = pair.low;
      }
    }
  }
};

template <ScalarType kType, int kBlocks>
__global__ void __launch_bounds__(kGradientThreads, 1)
    gradient_mma_kernel(GradientWork work, int stages) {
  using Shape = MmaGradient<kType, kBlocks>;
  constexpr bool kSplitRows = kType == ScalarType::f16;
  auto& shared = *dynamic_shared<typename Shape::Shared>();
  const int thread = static_cast<int>(threadIdx.x), lane = thread % 32, warp = thread / 32;
  const GradientPart part = part_of(work, blockIdx.x);
  const int live = part.live;
  // Scores: a warp has one 16 x 8 block of the 32 queries x 32 rows.
  const int query_half = warp % 2, row_block = warp / 2;
  const int64_t query_steps = work.slabs * Shape::kSteps;
  const auto* queries =
      static_cast<const QueryFragment*>(work.queries) +
      ((part.query / kMmaQueries * query_steps * 2 + query_half) * 32 + lane) * Shape::kQueryParts;
  float sums[2][kBlocks][4] = {};
  bool flushed = false;
  for (int i = thread; i < Shape::kPairs; i += kGradientThreads) shared.marks[i] = 0;
  if (thread < Shape::kQueries)
    shared.lse[thread] = thread < live ? work.lse[part.query + thread] : -kInfinity;

  // A step is one slab of one group of rows; the block's own slab comes last and stays for the
  // sums.
  auto* const widened = reinterpret_cast<uint16_t*>(&shared + 1);
  char* const stage = reinterpret_cast<char*>(&shared + 1) + Shape::kWidenedBytes;
  const int slabs = static_cast<int>(work.slabs), own_slab = static_cast<int>(part.slab);
  const int steps = static_cast<int>(ceil_div(part.end - part.first, Shape::kRows)) * slabs;
  const auto slab_of = [&](int step) { return (own_slab + 1 + step % slabs) % slabs; };
  const auto part_end = static_cast<uint32_t>(part.end);
  const auto first_of = [&](int step) {
    return static_cast<uint32_t>(part.first) + static_cast<uint32_t>(step / slabs * Shape::kRows);
  };
  const auto stage_of = [&](int step) { return stage + step % stages * Shape::kStageBytes; };
  const auto fetch = [&](int step) {
    if (step < steps)
      fetch_rows<kType, kBlocks>(work, first_of(step), part_end, slab_of(step), stage_of(step));
    cp_async_commit();
  };

  for (int ahead = 0; ahead < stages - 1; ++ahead) fetch(ahead);
  float scores[Shape::kChains][4];
  for (int step = 0; step < steps; ++step) {
    const uint32_t first = first_of(step);
    const uint16_t* rows =
        Shape::kWiden ? widened : reinterpret_cast<const uint16_t*>(stage_of(step));
    const bool fresh = step % slabs == 0, whole = (step + 1) % slabs == 0;
    if (fresh && first % kTile == 0 && thread == 0) shared.any = 0;
    if (stages == 1) {
      __syncthreads();
      fetch(step);
    }
    wait_for_stage(stages);
    // All have left the step before: its stage, too, may be filled again.
    __syncthreads();
    if (stages > 1) fetch(step + stages - 1);
    if (fresh && first % kTile == 0 && mark_excluded(work, part.query, live, first, kTile, nullptr))
      atomicExch(&shared.any, 1);
    if constexpr (Shape::kWiden) {
      widen_rows<kBlocks>(stage_of(step), widened);
      __syncthreads();
    }

    if (fresh) {
#pragma unroll
      for (int i = 0; i < Shape::kChains; ++i)
#pragma unroll
        for (int at = 0; at < 4; ++at) scores[i][at] = 0.0f;
    }
    const QueryFragment* query = queries + slab_of(step) * Shape::kSteps * 64 * Shape::kQueryParts;
    const uint16_t* own_rows = rows + (8 * row_block + lane % 8) * Shape::kStride + lane / 8 * 8;
#pragma unroll 1
    for (int k = 0; k < Shape::kSteps; k += Shape::kChains) {
      RowFragment<kType, 2 * Shape::kChains> e;
#pragma unroll
      for (int i = 0; i < Shape::kChains; i += 2)
        ldmatrix_x4(e.high + 2 * i, own_rows + 16 * (k + i));
      e.split();
#pragma unroll
      for (int i = 0; i < Shape::kChains; ++i) {
        const QueryFragment* q = query + (k + i) * 64 * Shape::kQueryParts;
        const QueryFragment high = q[0];
        mma_bf16(scores[i], high.pair, e.high + 2 * i);
        if constexpr (Shape::kQueryParts > 1) {
          const QueryFragment low = q[1];
          mma_bf16(scores[i], low.pair, e.high + 2 * i);
        }
        if constexpr (kSplitRows) mma_bf16(scores[i], high.pair, e.low + 2 * i);
      }
    }
    if (whole) {
      __syncthreads();
      if (shared.any) {
        mark_excluded(work, part.query, live, first, Shape::kRows, shared.marks);
        __syncthreads();
      }
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int q = 16 * query_half + lane / 4 + 8 * half;
        float weight[2];
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          const int at = 2 * half + i, row = 8 * row_block + lane % 4 * 2 + i;
          float score = scores[0][at] + scores[1][at];
          if constexpr (Shape::kChains > 2) score += scores[2][at] + scores[3][at];
          const bool there = first + row < part_end && !shared.marks[q * Shape::kRows + row];
          shared.marks[q * Shape::kRows + row] = 0;
          const float scale = there && work.scales ? work.scales[first + row] : 1.0f;
          weight[i] =
              there ? passage_weight(score * scale, work.inv_temperature, shared.lse[q]) * scale
                    : 0.0f;
        }
        const SplitPair split = split_pair(weight[0], weight[1]);
        const int to = q * Shape::kWeightStride + 8 * row_block + lane % 4 * 2;
        *reinterpret_cast<uint32_t*>(shared.high + to) = split.high;
        *reinterpret_cast<uint32_t*>(shared.low + to) = split.low;
      }
      __syncthreads();
#pragma unroll 1
      for (int k = 0; k < Shape::kRows; k += 16) {
        uint32_t high[2][4], low[2][4];
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const int from = (16 * half + lane % 16) * Shape::kWeightStride + k + lane / 16 * 8;
          ldmatrix_x4(high[half], shared.high + from);
          ldmatrix_x4(low[half], shared.low + from);
        }
        const uint16_t* columns =
            rows + (k + lane % 16) * Shape::kStride + warp * Shape::kWarpWidth + lane / 16 * 8;
#pragma unroll
        for (int block = 0; block < kBlocks; block += 2) {
          RowFragment<kType, 4> e;
          ldmatrix_x4_trans(e.high, columns + 8 * block);
          e.split();
#pragma unroll
          for (int half = 0; half < 2; ++half) {
            mma_bf16(sums[half][block], high[half], e.high);
            mma_bf16(sums[half][block + 1], high[half], e.high + 2);
            mma_bf16(sums[half][block], low[half], e.high);
            mma_bf16(sums[half][block + 1], low[half], e.high + 2);
            if constexpr (kSplitRows) {
              mma_bf16(sums[half][block], high[half], e.low);
              mma_bf16(sums[half][block + 1], high[half], e.low + 2);
            }
          }
        }
      }
      const uint32_t end = first + Shape::kRows;
      if (end >= part_end || end % (kFlushTiles * kTile) == 0) {
#pragma unroll
        for (int half = 0; half < 2; ++half)
#pragma unroll
          for (int block = 0; block < kBlocks; ++block)
#pragma unroll
            for (int at = 0; at < 4; ++at) {
              const int64_t q = 16 * half + lane / 4 + at / 2 * 8;
              const int64_t column = part.slab * Shape::kWidth + warp * Shape::kWarpWidth +
                                     8 * block + lane % 4 * 2 + at % 2;
              if (q < live && column < work.width) {
                double& to =
                    work.partial[(part.split * work.batch + part.query + q) * work.width + column];
                to = (flushed ? to : 0.0) + static_cast<double>(sums[half][block][at]);
              }
              sums[half][block][at] = 0.0f;
            }
        flushed = true;
      }
    }
  }
}

}  // namespace jsarag::cuda
