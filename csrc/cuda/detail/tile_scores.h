// Scores of one query and one tile, by one block: what draw needs of a scan. A warp takes a few
// rows at a time and reads them in 16-byte pieces.
#pragma once

#include <cstdint>

#include "cuda/detail/element.h"
#include "cuda/detail/simt.h"
#include "jsarag/scan.h"

namespace jsarag::cuda {

template <ScalarType kType>
struct TileScorer {
  using Storage = typename Element<kType>::Storage;
  static constexpr int kNumbers = 16 / static_cast<int>(sizeof(Storage));
  static constexpr int kRows = 4;

  struct alignas(16) Piece {
    Storage number[kNumbers];
  };

  struct alignas(16) Four {
    float x, y, z, w;
  };

  QueriesView queries;
  PassagesView passages;
  bool aligned;          // every row may be read in 16-byte pieces
  bool queries_aligned;  // every query too

  // scores[0 .. rows) of passages first .. first + rows. All warps of the block take part; the
  // caller lets them meet before the scores are read.
  __device__ void operator()(int64_t query, int64_t first, int rows, float* scores) const {
    const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
    const int warps = static_cast<int>(blockDim.x) / 32, width = static_cast<int>(queries.width);
    const float* own = queries.data + query * queries.width;
    for (int row0 = warp * kRows; row0 < rows; row0 += warps * kRows) {
      float sum[kRows] = {};
      for (int column = lane * kNumbers; column < width; column += 32 * kNumbers) {
        Piece piece[kRows];
#pragma unroll
        for (int r = 0; r < kRows; ++r) {
          // A row beyond the end is read as the last one and left out below.
          const int row = row0 + r < rows ? row0 + r : rows - 1;
          piece[r] = load(first + row, column, width - column);
        }
#pragma unroll
        for (int i = 0; i < kNumbers; i += 4) {
          const Four q = query_numbers(own, column + i, width - column - i);
#pragma unroll
          for (int r = 0; r < kRows; ++r) {
            sum[r] = fmaf(q.x, Element<kType>::value(piece[r].number[i]), sum[r]);
            sum[r] = fmaf(q.y, Element<kType>::value(piece[r].number[i + 1]), sum[r]);
            sum[r] = fmaf(q.z, Element<kType>::value(piece[r].number[i + 2]), sum[r]);
            sum[r] = fmaf(q.w, Element<kType>::value(piece[r].number[i + 3]), sum[r]);
          }
        }
      }
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        for (int half = 16; half > 0; half /= 2)
          sum[r] += __shfl_xor_sync(0xffffffffu, sum[r], half);
        if (lane == 0 && row0 + r < rows)
          scores[row0 + r] = passages.scales ? sum[r] * passages.scales[first + row0 + r] : sum[r];
      }
    }
  }

 private:
  // A query's numbers; zeros beyond the end.
  __device__ Four query_numbers(const float* query, int column, int left) const {
    Four four{0.0f, 0.0f, 0.0f, 0.0f};
    if (queries_aligned && left >= 4) {
      four = *reinterpret_cast<const Four*>(query + column);
    } else {
      if (left > 0) four.x = query[column];
      if (left > 1) four.y = query[column + 1];
      if (left > 2) four.z = query[column + 2];
      if (left > 3) four.w = query[column + 3];
    }
    return {round_query<kType>(four.x), round_query<kType>(four.y), round_query<kType>(four.z),
            round_query<kType>(four.w)};
  }

  __device__ Piece load(int64_t row, int column, int left) const {
    const auto* from = reinterpret_cast<const Storage*>(static_cast<const char*>(passages.data) +
                                                        row * passages.row_bytes) +
                       column;
    if (aligned && left >= kNumbers) return *reinterpret_cast<const Piece*>(from);
    Piece piece;
#pragma unroll
    for (int i = 0; i < kNumbers; ++i) piece.number[i] = i < left ? from[i] : Storage{0};
    return piece;
  }
};

// Calls f with the scorer of the passages' type.
template <class F>
void with_tile_scorer(const QueriesView& queries, const PassagesView& passages, F&& f) {
  const bool aligned =
      reinterpret_cast<uintptr_t>(passages.data) % 16 == 0 && passages.row_bytes % 16 == 0;
  const bool queries_aligned =
      reinterpret_cast<uintptr_t>(queries.data) % 16 == 0 && queries.width % 4 == 0;
  with_scalar_type(passages.type, [&](auto type) {
    f(TileScorer<decltype(type)::value>{queries, passages, aligned, queries_aligned});
  });
}

}  // namespace jsarag::cuda
