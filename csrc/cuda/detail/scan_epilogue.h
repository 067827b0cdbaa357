// What the scan of many queries does with a tile of products while it is in registers: keep the
// scores that may still be among a query's k best, and sum the tile's mass.
//
// Rows are queries and columns passages. A lane of a 16-row fragment then holds two queries, so it
// reads two thresholds a tile; with passages as rows it would read one for every second register.
// Four neighbouring lanes share a row: they agree by two shuffles and take places among the query's
// candidates with one atomic. Which places they get is left to chance and does not matter, since
// keys order the candidates totally.
#pragma once

#include <cstdint>

#include "cuda/detail/hit_key.h"
#include "cuda/detail/numbers.h"
#include "cuda/detail/simt.h"

namespace jsarag::cuda {

// Passages per tile of products: half a tile of tile_lse.
constexpr int kScanColumns = 256;

// Passages that all queries see at once, between two updates of the thresholds.
struct ScanWave {
  int queries;           // B
  int64_t first;         // passage of the wave, a multiple of kScanColumns
  int count;             // of them
  const float* factors;  // [B]: what a product is multiplied by
  float inv_temperature;
  const float* thresholds;  // [B]: only scores above it may be among the k best
  const int64_t* exclude;   // [B, excluded], or null
  int64_t excluded;
  Key* candidates;  // [B, capacity] out
  int* counts;      // [B]: how many there were; above capacity: some are lost
  int capacity;
  float* peaks;  // [B, ceil(count / kScanColumns)] largest score of the tile, or null
  float* sums;   // of exp((score - peak) * inv_temperature)
};

// Largest and sum over the four lanes that share a row; addition commutes, so all get the same
// bits.
__device__ inline float largest_of_row(float x) {
#pragma unroll
  for (int by = 1; by < 4; by *= 2) {
    const float other = __shfl_xor_sync(0xffffffffu, x, by);
    x = other > x ? other : x;
  }
  return x;
}
__device__ inline float sum_of_row(float x) {
#pragma unroll
  for (int by = 1; by < 4; by *= 2) x += __shfl_xor_sync(0xffffffffu, x, by);
  return x;
}
// The first of `wanted` places, of what `count` hands out to the four lanes at once.
__device__ inline int places_of_row(int wanted, int* count, int lane) {
  int upto = wanted;
#pragma unroll
  for (int by = 1; by < 4; by *= 2) {
    const int other = __shfl_up_sync(0xffffffffu, upto, by);
    if (lane % 4 >= by) upto += other;
  }
  int first = 0;
  if (lane % 4 == 3 && upto > 0) first = atomicAdd(count, upto);
  return __shfl_sync(0xffffffffu, first, lane | 3) + upto - wanted;
}

// A lane's share of a tile: registers [kScanColumns / 8][2 rows][2 columns], of rows lane / 4 and
// lane / 4 + 8 from `row` on the columns 8 j + 2 (lane % 4) and the one behind, as wgmma m64n256k16
// leaves them to a warp of 16 rows. `column` is the tile's first, counted from the wave's first
// passage. For all 32 lanes.
__device__ inline void finish_scan_tile(float* products, int row, int column, int lane,
                                        const ScanWave& wave) {
  constexpr int kOwn = kScanColumns / 4;  // columns of a lane
  const int own = lane % 4 * 2;
  const int left = wave.count - column;
  // The main loop fills its grid up with tiles that have no column, and some that have no row.
  if (left <= 0) return;
  const int inside = left < kScanColumns ? left : kScanColumns;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int query = row + lane / 4 + 8 * half;
    // The four lanes of a row agree on `there`, but lanes of other rows may not: none returns.
    const bool there = query < wave.queries;
    const float factor = there ? wave.factors[query] : 0.0f;
#pragma unroll
    for (int j = 0; j < kOwn; ++j) {
      float& score = products[j / 2 * 4 + half * 2 + j % 2];
      score = there && j / 2 * 8 + own + j % 2 < inside ? score * factor : -kInfinity;
    }
    if (wave.exclude != nullptr) {
      const int64_t* ids = wave.exclude + (there ? query : 0) * wave.excluded;
      // Few tiles hold an excluded passage. A quarter of the list per lane, and loads that do not
      // wait for each other, tell whether this one does.
      bool meant = false;
      for (int64_t e = lane % 4; there && e < wave.excluded; e += 4) {
        const int64_t at = ids[e] - wave.first - column;
        meant = meant | (at >= 0 && at < inside);
      }
      if (__any_sync(0xffffffffu, meant)) {
        for (int64_t e = 0; there && e < wave.excluded; ++e) {
          const int64_t at = ids[e] - wave.first - column;
          if (at < 0 || at >= inside || at % 8 / 2 * 2 != own) continue;
          // Registers have no addresses: each asks whether it is meant.
#pragma unroll
          for (int j = 0; j < kOwn; ++j)
            if (j / 2 * 8 + own + j % 2 == at) products[j / 2 * 4 + half * 2 + j % 2] = -kInfinity;
        }
      }
    }
    if (wave.peaks != nullptr) {
      float peak = -kInfinity;
#pragma unroll
      for (int j = 0; j < kOwn; ++j) {
        const float score = products[j / 2 * 4 + half * 2 + j % 2];
        peak = score > peak ? score : peak;  // a NaN is none
      }
      peak = largest_of_row(peak);
      float sum = 0.0f;
#pragma unroll
      for (int j = 0; j < kOwn; ++j) {
        const float score = products[j / 2 * 4 + half * 2 + j % 2];
        // Equal first: infinity less infinity is no number. A tile without mass sums to 0.
        const float term = score == peak ? 1.0f : expf((score - peak) * wave.inv_temperature);
        sum += score == -kInfinity ? 0.0f : term;
      }
      sum = sum_of_row(sum);
      if (there && lane % 4 == 0) {
        const int tiles = (wave.count + kScanColumns - 1) / kScanColumns;
        const int64_t at = static_cast<int64_t>(query) * tiles + column / kScanColumns;
        wave.peaks[at] = peak;
        wave.sums[at] = sum;
      }
    }
    const float threshold = there ? wave.thresholds[query] : kInfinity;
    int found = 0;
#pragma unroll
    for (int j = 0; j < kOwn; ++j)
      found += products[j / 2 * 4 + half * 2 + j % 2] > threshold ? 1 : 0;
    // Where no row of the warp has any, nobody asks for places.
    if (!__any_sync(0xffffffffu, found > 0)) continue;
    int place = places_of_row(found, there ? wave.counts + query : nullptr, lane);
    if (found == 0) continue;
    Key* candidates = wave.candidates + static_cast<int64_t>(query) * wave.capacity;
#pragma unroll
    for (int j = 0; j < kOwn; ++j) {
      const float score = products[j / 2 * 4 + half * 2 + j % 2];
      if (!(score > threshold)) continue;
      if (place < wave.capacity)
        candidates[place] = hit_key(score, wave.first + column + j / 2 * 8 + own + j % 2);
      ++place;
    }
  }
  // The main loop's instructions want the warp in one piece.
  __syncwarp();
}

}  // namespace jsarag::cuda
