// scan's inner loops with AMX: products of bf16 pairs in 16 x 16 tiles, everything else as with
// AVX-512. A tile holds 16 queries x 16 words on the left (so query blocks are packed in tiles) and
// 16 words x 16 passages on the right, which is how a panel lies.
//
// Tiles add a product's words in an order of their own, so every batch size goes through them: a
// score must not depend on how many queries stand beside it.
#include <immintrin.h>

#include <cstddef>
#include <cstdint>

#include "cpu/detail/scan_kernels.h"

namespace jsarag::cpu {
namespace {

// clang-format off: the order matters
#include "cpu/detail/repeat.h"
#include "cpu/detail/simd_avx512.h"
#include "cpu/detail/scan_kernels_body.h"
#include "cpu/detail/amx_tiles.h"
// clang-format on

constexpr int64_t kTileRows = 16, kTileWords = 16;
constexpr int64_t kWordBytes = 4;
static_assert(kSlice == 2 * kTileRows);

// kQueryTiles x 16 queries against one slice of 32 passages. A query tile that is not full has rows
// of zeros, whose scores nobody reads: `scores` has room for kMaxBlock queries.
template <int kQueryTiles>
void score_slice(const ScoreArguments& a, const uint32_t* slice, float* scores) {
  constexpr int64_t kScoreBytes = kPanelRows * sizeof(float);
  const int64_t query_tile = a.words * kTileRows;
  fence();
  _tile_zero(0);
  _tile_zero(1);
  if constexpr (kQueryTiles > 1) {
    _tile_zero(2);
    _tile_zero(3);
  }
  for (int64_t w = 0; w < a.words; w += kTileWords) {
    const uint32_t* queries = a.queries + w * kTileRows;
    const uint32_t* passages = slice + w * kSlice;
    _tile_loadd(4, queries, kTileWords * kWordBytes);
    _tile_loadd(6, passages, kSlice * kWordBytes);
    _tile_loadd(7, passages + kTileRows, kSlice * kWordBytes);
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    if constexpr (kQueryTiles > 1) {
      _tile_loadd(5, queries + query_tile, kTileWords * kWordBytes);
      _tile_dpbf16ps(2, 5, 6);
      _tile_dpbf16ps(3, 5, 7);
    }
  }
  _tile_stored(0, scores, kScoreBytes);
  _tile_stored(1, scores + kTileRows, kScoreBytes);
  if constexpr (kQueryTiles > 1) {
    _tile_stored(2, scores + kTileRows * kPanelRows, kScoreBytes);
    _tile_stored(3, scores + kTileRows * kPanelRows + kTileRows, kScoreBytes);
  }
  fence();
}

void score_tiles(Arithmetic arithmetic, const ScoreArguments& a) {
  if (arithmetic != Arithmetic::bf16_pairs) return score(arithmetic, a);
  const TileState state;
  for (int64_t row = 0; row < a.rows; row += kSlice) {
    const uint32_t* slice = a.panel + row * a.words;
    if (a.block > kTileRows) {
      score_slice<2>(a, slice, a.scores + row);
    } else {
      score_slice<1>(a, slice, a.scores + row);
    }
  }
}

bool score_few_but_bf16(Arithmetic arithmetic, const PanelSource& source, const ScoreArguments& a) {
  return arithmetic != Arithmetic::bf16_pairs && score_few(arithmetic, source, a);
}

constexpr ScanKernels make_amx_kernels() {
  ScanKernels kernels = make_kernels("amx");
  kernels.tile_queries = 2 * kTileRows;
  kernels.score = score_tiles;
  kernels.score_few = score_few_but_bf16;
  return kernels;
}

}  // namespace

extern const ScanKernels kScanAmx = make_amx_kernels();

}  // namespace jsarag::cpu
