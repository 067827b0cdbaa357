// What the kernels of log_partition's gradient share: sum_h p(h) e(h) in one streaming pass over
// the passages, attention whose keys and values are the same rows.
//
// A block holds the sums of a group of queries over a chunk of columns in registers and streams the
// rows of its split: it scores a few rows, turns the scores into weights, and adds the weighted
// rows while they are still in shared memory. Its f32 sums go to f64 partial sums every kFlushTiles
// tiles, and the splits' partial sums are added in order, so the result does not depend on when
// which block ran. The number of splits follows from the shape alone.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "cuda/detail/numbers.h"
#include "cuda/detail/simt.h"
#include "jsarag/log_partition.h"

namespace jsarag::cuda {

#if JSARAG_EMULATE_CUDA
// An emulated GPU is slow: small problems are cut as a real one cuts large ones.
constexpr int64_t kFlushTiles = 2;
constexpr int64_t kGradientBlocks = 8;
#else
// Tiles whose f32 sums go to the f64 sums in one go, as on the CPU.
constexpr int64_t kFlushTiles = 16;
// Blocks that keep any device busy, in a few waves.
constexpr int64_t kGradientBlocks = 512;
#endif
constexpr int kGradientThreads = 256;
constexpr int kGradientWarps = kGradientThreads / 32;

struct GradientWork {
  const char* rows;  // [N, D], row_bytes apart
  int64_t row_bytes;
  const float* scales;  // [N] or null
  int64_t passages, width;
  int64_t batch;
  const int64_t* exclude;  // [B, per_query] or null
  int64_t per_query;
  float inv_temperature;
  const float* lse;  // [B]
  void* queries;     // [groups, ...] as the kernel reads them
  double* partial;   // [splits, B, D]
  int64_t group_queries;
  int64_t groups;      // of queries
  int64_t slabs;       // chunks of columns
  int64_t slab_width;  // columns of a chunk
  int64_t tiles;
  int64_t split_tiles;  // tiles of a split
  int64_t splits;
  bool aligned;  // every row may be read in 16-byte pieces
};

// Cuts the work into blocks of `group` queries and one of the `count` widths (ascending): the
// narrowest that needs no more chunks of columns than the widest would.
inline void cut_gradient(GradientWork& work, int64_t group, const int64_t* widths, int64_t count) {
  work.group_queries = group;
  work.groups = ceil_div(work.batch, group);
  work.slabs = std::max<int64_t>(ceil_div(work.width, widths[count - 1]), 1);
  work.slab_width = *std::find_if(widths, widths + count - 1,
                                  [&](int64_t width) { return width * work.slabs >= work.width; });
  work.tiles = ceil_div(work.passages, kTile);
  const int64_t blocks = std::max<int64_t>(work.groups * work.slabs, 1);
  work.split_tiles = std::max<int64_t>(ceil_div(work.tiles * blocks, kGradientBlocks), 1);
  work.splits = ceil_div(work.tiles, work.split_tiles);
}

// Which part of the work a block has: groups change fastest, so that blocks that run together read
// the same rows.
struct GradientPart {
  int64_t query, slab, split;
  int64_t first, end;  // passages
  int live;            // queries
};

JSARAG_HOST_DEVICE inline GradientPart part_of(const GradientWork& work, int64_t block) {
  GradientPart part{};
  part.query = block % work.groups * work.group_queries;
  const int64_t left = work.batch - part.query;
  part.live = static_cast<int>(left < work.group_queries ? left : work.group_queries);
  block /= work.groups;
  part.slab = block % work.slabs;
  part.split = block / work.slabs;
  part.first = part.split * work.split_tiles * kTile;
  const int64_t end = part.first + work.split_tiles * kTile;
  part.end = end < work.passages ? end : work.passages;
  return part;
}

// The weight of a passage: p(h), times the factor of its row. A query without mass has no gradient
// rather than a NaN one.
__device__ inline float passage_weight(float score, float inv_temperature, float lse) {
  return lse == -kInfinity ? 0.0f : expf(score * inv_temperature - lse);
}

// Marks (query, row) pairs of rows first .. first + count that the queries leave out: marks[q *
// count + row] = 1. All threads of the block take part; true if there was one.
__device__ inline bool mark_excluded(const GradientWork& work, int64_t query, int64_t queries,
                                     int64_t first, int64_t count, int* marks) {
  const int64_t total = queries * work.per_query;
  const int64_t* ids = work.exclude + query * work.per_query;
  bool found = false;
  for (int64_t i = threadIdx.x; i < total; i += kGradientThreads) {
    const int64_t row = ids[i] - first;
    if (row < 0 || row >= count) continue;
    found = true;
    // Two entries may be equal.
    if (marks) atomicExch(&marks[i / work.per_query * count + row], 1);
  }
  return found;
}

}  // namespace jsarag::cuda
