// Scores of one query and one tile, by one block: what draw needs of a scan, with the scan's own
// inner loops and packed queries, so bit for bit the numbers its tile masses were made of.
#pragma once

#include <cstdint>
#include <type_traits>

#include "cuda/detail/element.h"
#include "cuda/detail/ptx.h"
#include "cuda/detail/scan_queries.h"
#include "cuda/detail/scan_scorers.h"
#include "cuda/detail/simt.h"
#include "jsarag/scan.h"

namespace jsarag::cuda {

constexpr int kTileWarps = 8;
constexpr int kTileStages = 2;
constexpr int kTileStageBytes = kWarpRows * kChunkBytes;
// Dynamic shared memory of a block.
constexpr size_t kTileSharedBytes = size_t{kTileWarps} * kTileStages * kTileStageBytes;

// Queries that are packed together: the columns of one instruction, or one query by itself.
constexpr int packed_together(ScalarType type) { return type == ScalarType::f32 ? 1 : 8; }

template <ScalarType kType>
struct TileScorer {
  using Inner =
      std::conditional_t<kType == ScalarType::f32, FloatScorer<1>, TensorScorer<kType, 1>>;
  using Storage = typename Element<kType>::Storage;
  static constexpr int kTogether = packed_together(kType);
  static_assert(Inner::kQueries == kTogether);

  PassagesView passages;
  bool aligned;  // every row may be read in 16-byte pieces
  int chunks;
  PackedGroups packed;

  // scores[0 .. rows) of passages first .. first + rows. All warps of the block take part; the
  // caller lets them meet before the scores are read. `stages`: kTileSharedBytes of shared memory.
  __device__ void operator()(int64_t query, int64_t first, int rows, char* stages,
                             float* scores) const {
    const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
    const int slot = static_cast<int>(query % kTogether);
    const char* queries = packed.data + query / kTogether * packed.group_bytes;
    const float factor = packed.factors[query];
    char* const own = stages + warp * kTileStages * kTileStageBytes;
    Inner scorer;
    for (int row0 = warp * kWarpRows; row0 < rows; row0 += kTileWarps * kWarpRows) {
      scorer.begin();
      if (chunks > 0) fetch(first + row0, rows - row0, 0, own, lane);
      cp_async_commit();
      for (int chunk = 0; chunk < chunks; ++chunk) {
        cp_async_wait<0>();
        // Everybody's copies have come, and everybody has read the stage that is filled next.
        __syncwarp();
        if (chunk + 1 < chunks)
          fetch(first + row0, rows - row0, chunk + 1, own + (chunk + 1) % 2 * kTileStageBytes,
                lane);
        cp_async_commit();
        scorer.add(own + chunk % 2 * kTileStageBytes, queries, chunk, lane);
      }
      scorer.end(chunks);
      // The next rows' first chunk comes to the first stage.
      __syncwarp();
#pragma unroll
      for (int c = 0; c < Inner::kColumns; ++c)
#pragma unroll
        for (int r = 0; r < Inner::kRows; ++r) {
          const int row = row0 + Inner::row(r, lane);
          if (Inner::query(c, lane) != slot || row >= rows) continue;
          float score = scorer.score(c, r);
          if (kType != ScalarType::f32) score *= factor;
          if (kType == ScalarType::i8) score *= passages.scales[first + row];
          scores[row] = score;
        }
    }
  }

 private:
  // Begins to copy a chunk of 32 rows, of which `rows` exist, as the inner loops expect it; what is
  // not there is 0.
  __device__ void fetch(int64_t first, int rows, int chunk, char* stage, int lane) const {
    constexpr int kNumbers = 16 / static_cast<int>(sizeof(Storage));
    const int piece = lane % kChunkPieces;
    const int64_t column = (int64_t{chunk} * kChunkPieces + piece) * kNumbers;
    const int64_t left = passages.width - column;
#pragma unroll
    for (int row = lane / kChunkPieces; row < kWarpRows; row += 32 / kChunkPieces) {
      const auto* from = reinterpret_cast<const Storage*>(static_cast<const char*>(passages.data) +
                                                          (first + row) * passages.row_bytes) +
                         column;
      auto* to = reinterpret_cast<Storage*>(stage + piece_offset(row, piece));
      if (row < rows && aligned && left >= kNumbers) {
        cp_async_16(to, from);
      } else {
#pragma unroll 1
        for (int e = 0; e < kNumbers; ++e) to[e] = row < rows && e < left ? from[e] : Storage{0};
      }
    }
  }
};

}  // namespace jsarag::cuda
