// The scan of many queries: passages in waves that all queries see at once, products by
// detail/scan_wgmma.h, and after each wave the k best of each query anew.
//
// A wave's epilogue keeps the scores above the query's k-th best of the waves before. That loses
// nothing: passages of later waves have larger ids, so one that ties with the k-th best comes
// behind it. The first wave has no threshold and no more passages than there is room for. A wave
// then is three times all before it, and its threshold stays what it was at its start: in random
// order 3 k of its passages are expected above it, with a variance of 12 k (one passage in four has
// been seen, and the k-th best of those is the threshold). There is room for max(4 k, 4096): beyond
// that lie 9 standard deviations at k = 1024, where it is the nearest. Where passages come in an
// order that fills a query's room nonetheless, the query is marked, and the streaming pass, which
// is exact in any order, answers it afterwards; for all others that pass ends at once. Nothing
// waits for the GPU to know.
//
// So every query not marked is exact: by induction `best` holds the k best of all passages before
// the wave, a passage of the wave that is no candidate is behind k of them, and none was lost.
#pragma once

#include <cstdint>

#include "cuda/detail/scan_epilogue.h"
#include "cuda/detail/scan_queries.h"
#include "cuda/detail/simt.h"
#include "cuda/detail/top_k.h"

namespace jsarag::cuda {

// Queries in waves at a time, and below how many a batch is not worth it. An estimate, for 8M
// passages of 768 bf16 on an H200: reading them takes 2.9 ms. The streaming pass moves 3 KiB of
// shared memory for 65.5 kFLOP (32 passages, 64 queries, 16 numbers), which caps it at about 610
// TFLOP/s: 2.6 ms for 128 queries, hidden behind the reading. Beyond, a third group of 64 makes it
// 3.9 ms at best, and a fourth 5.2 ms; wgmma takes 256 rows for either, 4.0 ms and its epilogue.
constexpr int64_t kWaveQueries = 4096;
constexpr int64_t kFewestWaveQueries = 129;
constexpr int kMostWaveHits = 2048;  // k
// Of the halves of tile_lse that a wave may leave.
constexpr int64_t kWaveMassBytes = 64 << 20;

// Room for a query's candidates, and passages of the first wave: whole tiles.
JSARAG_HOST_DEVICE inline int wave_capacity(int k) {
  const int tile = static_cast<int>(kTile);
  const int wanted = 4 * k > 4096 ? 4 * k : 4096;
  return (wanted + tile - 1) / tile * tile;
}

// Passages of the wave that begins at `first`.
inline int64_t wave_size(int64_t first, int64_t passages, int64_t queries, int k, bool mass) {
  int64_t size = first == 0 ? wave_capacity(k) : 3 * first;
  const int64_t most =
      mass ? kWaveMassBytes / 8 * kScanColumns / queries / kTile * kTile : int64_t{1} << 30;
  size = size < most ? size : most;
  return size < passages - first ? size : passages - first;
}

// What is kept of a batch of queries from wave to wave.
struct WaveHits {
  Key* best;          // [queries, k] in no order
  int* found;         // [queries]: of them
  Key* candidates;    // [queries, capacity]
  int* counts;        // [queries]
  float* thresholds;  // [queries]
  int* overflowed;    // [queries]: 1 where candidates were lost
  int capacity, k;
};

constexpr int kWaveThreads = 256;

// f32 queries to rows [stride] of the passages' type; zeros behind the width. One block per query.
template <ScalarType kType>
__global__ void __launch_bounds__(kPackThreads)
    round_scan_queries_kernel(QueriesView queries, uint16_t* rounded, int64_t stride,
                              float* factors) {
  __shared__ float largest[kPackThreads];
  __shared__ int broken;
  const int thread = static_cast<int>(threadIdx.x);
  const float* own = queries.data + static_cast<int64_t>(blockIdx.x) * queries.width;
  F16Scale scale{1.0f, 1.0f};
  if (kType == ScalarType::f16) scale = f16_scale(query_peak(own, queries.width, largest, &broken));
  uint16_t* row = rounded + static_cast<int64_t>(blockIdx.x) * stride;
  for (int64_t d = thread; d < stride; d += kPackThreads) {
    const float number = d < queries.width ? own[d] : 0.0f;
    row[d] = kType == ScalarType::bf16 ? bf16_bits(number) : f16_rounded(number * scale.scale);
  }
  if (thread == 0) factors[blockIdx.x] = scale.factor;
}

__global__ void __launch_bounds__(kWaveThreads) begin_waves_kernel(WaveHits hits, int queries) {
  const int i = static_cast<int>(blockIdx.x * kWaveThreads + threadIdx.x);
  if (i >= queries) return;
  hits.found[i] = hits.counts[i] = hits.overflowed[i] = 0;
  // Nobody asked for hits: nothing is above.
  hits.thresholds[i] = hits.k > 0 ? -kInfinity : kInfinity;
}

// The k best of those before and the wave's candidates. One block per query, k keys of dynamic
// shared memory. Writes them to `out` after the last wave.
__global__ void __launch_bounds__(kWaveThreads)
    keep_best_kernel(WaveHits hits, bool last, MergeOutput out) {
  __shared__ SelectSpace space;
  __shared__ int taken;
  __shared__ Key smallest;
  const int thread = static_cast<int>(threadIdx.x);
  const int64_t query = blockIdx.x;
  auto* kept = dynamic_shared<uint64_t>();
  Key* best = hits.best + query * hits.k;
  const Key* candidates = hits.candidates + query * hits.capacity;
  const int before = hits.found[query], arrived = hits.counts[query];
  const int here = arrived < hits.capacity ? arrived : hits.capacity;
  const auto each = [&](auto f) {
    for (int i = thread; i < before; i += kWaveThreads) f(best[i]);
    for (int i = thread; i < here; i += kWaveThreads) f(candidates[i]);
  };
  if (thread == 0) {
    taken = 0;
    smallest = ~0ull;
  }
  __syncthreads();
  const Key bound = before + here > hits.k
                        ? select_bound(BlockGroup<kWaveThreads>{thread}, each, hits.k, space)
                        : 0;
  // Complements: block_sort puts the smallest first.
  Key own = ~0ull;
  each([&](Key key) {
    if (key < bound) return;
    kept[atomicAdd(&taken, 1)] = ~key;
    own = key < own ? key : own;
  });
  if (own != ~0ull) atomicMin(&smallest, own);
  __syncthreads();
  const int total = taken;
  if (last) {
    block_sort(kept, total);
    for (int i = thread; i < hits.k; i += kWaveThreads)
      write_hit(out, query * hits.k + i, i < total ? ~kept[i] : 0);
  } else {
    for (int i = thread; i < total; i += kWaveThreads) best[i] = ~kept[i];
  }
  if (thread != 0) return;
  hits.found[query] = total;
  hits.counts[query] = 0;
  hits.thresholds[query] = total == hits.k ? key_score(smallest) : -kInfinity;
  if (arrived > hits.capacity) hits.overflowed[query] = 1;
}

// Log-sum-exp of tiles from their two halves, in f64: one thread per query and tile of the wave.
__global__ void __launch_bounds__(kWaveThreads)
    join_halves_kernel(ScanWave wave, float* tile_lse, int64_t tiles) {
  const int64_t halves = (wave.count + kScanColumns - 1) / kScanColumns;
  const int64_t own_tiles = (wave.count + kTile - 1) / kTile;
  const int64_t at = static_cast<int64_t>(blockIdx.x) * kWaveThreads + threadIdx.x;
  if (at >= own_tiles * wave.queries) return;
  const int64_t query = at / own_tiles, tile = at % own_tiles;
  float peaks[2] = {-kInfinity, -kInfinity}, sums[2] = {0.0f, 0.0f};
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    if (2 * tile + half >= halves) continue;
    peaks[half] = wave.peaks[query * halves + 2 * tile + half];
    sums[half] = wave.sums[query * halves + 2 * tile + half];
  }
  const float peak = peaks[1] > peaks[0] ? peaks[1] : peaks[0];
  float result = peak;
  if (sums[0] != sums[0] || sums[1] != sums[1]) {
    result = kNan;
  } else if (peak != kInfinity && peak != -kInfinity) {
    double sum = 0.0;
#pragma unroll
    for (int half = 0; half < 2; ++half)
      if (sums[half] != 0.0f)
        sum += sums[half] * exp((static_cast<double>(peaks[half]) - peak) * wave.inv_temperature);
    result = static_cast<float>(static_cast<double>(peak) * wave.inv_temperature + log(sum));
  }
  tile_lse[query * tiles + wave.first / kTile + tile] = result;
}

}  // namespace jsarag::cuda
