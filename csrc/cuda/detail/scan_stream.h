// The scan's pass over the passages: one launch for a batch of queries.
//
// A group of queries (up to 64) shares one reading of the passages; its packed numbers lie in
// shared memory. Block (stream, group) takes tiles stream, stream + streams, ... of 512 passages,
// so blocks of different groups want the same tile at about the same time and all but one find it
// in the L2 cache. One block of eight warps per SM; each warp runs a pipeline of its own over 32
// rows at a time, 4 KiB a stage, and waits for no other warp before the tile's end.
//
// Bytes under way: 8 warps * (stages - 1) * 4 KiB = 96 KiB per SM with four stages, 64 KiB with
// three. An H200 (4.3 TB/s, 132 SMs, about 1 us of loaded latency) wants 33 KiB.
//
// At the end of 32 rows the scores are in registers: each is held against its query's threshold,
// the few above are appended to the block's list, and the rows' log-sum-exp goes to shared memory.
// At the end of a tile the sixteen partial sums are added in order, and lists that have grown are
// cut back by one warp each.
#pragma once

#include <cstdint>

#include "cuda/detail/element.h"
#include "cuda/detail/numbers.h"
#include "cuda/detail/ptx.h"
#include "cuda/detail/scan_queries.h"
#include "cuda/detail/scan_scorers.h"
#include "cuda/detail/simt.h"
#include "cuda/detail/top_k.h"
#include "jsarag/scan.h"

namespace jsarag::cuda {

constexpr int kScanWarps = 8;
constexpr int kScanThreads = 32 * kScanWarps;
constexpr int kStageBytes = kWarpRows * kChunkBytes;
constexpr int kMostScanStages = 4;
constexpr int kTileParts = static_cast<int>(kTile) / kWarpRows;  // pieces of 32 rows
constexpr int kWarpParts = kTileParts / kScanWarps;
static_assert(kTile % (kWarpRows * kScanWarps) == 0);

struct ScanWork {
  PassagesView passages;
  int64_t row_width_bytes;  // bytes of a row's numbers
  bool aligned;             // rows may be read in 16-byte pieces
  int chunks, stages;
  PackedGroups packed;
  const int64_t* exclude;  // [B, per_query]
  int64_t per_query;
  float inv_temperature;
  float* tile_lse;  // [B, tiles] or null
  int64_t tiles;
  // This launch's queries, and what each keeps: k hits, in lists cut back beyond `limit`.
  int64_t first_query, queries;
  int k, limit;
  HitLists lists;          // of this launch's queries
  const float* row_error;  // with bounds: hits are upper bounds of exact scores
  const float* row_norm;
  const int* wanted;  // [B] or null: queries to search for
};

// What a block keeps beside the queries and the stages.
template <int kQueries>
struct ScanShared {
  float peak[kTileParts][kQueries];  // log-sum-exp of each part: peak, and sum of exp(x - peak)
  float mass[kTileParts][kQueries];
  Key threshold[kQueries];
  float limit[kQueries];  // its score; NaN where nothing is searched
  int count[kQueries];
  float factor[kQueries];
  ScoreBound bound[kQueries];
  uint32_t excluded[kQueries][kTileParts];  // one bit per passage of the tile
  SelectSpace select[kScanWarps];
  int any;
};

template <class Scorer>
constexpr size_t scan_shared_bytes(int stages, int64_t query_bytes) {
  constexpr size_t kOwn = (sizeof(ScanShared<Scorer::kQueries>) + 127) / 128 * 128;
  return kOwn + static_cast<size_t>(stages) * kScanWarps * kStageBytes +
         static_cast<size_t>(query_bytes);
}

// Where a warp's pipeline reads next.
struct StreamPlace {
  int64_t tile;
  int part, chunk;

  __device__ void advance(int chunks, int streams) {
    if (++chunk < chunks) return;
    chunk = 0;
    if (++part < kWarpParts) return;
    part = 0;
    tile += streams;
  }
  __device__ int64_t first_row(int warp) const {
    return tile * kTile + (part * kScanWarps + warp) * kWarpRows;
  }
};

// Begins to copy a chunk of 32 rows; numbers and rows that do not exist are zeros.
template <ScalarType kType>
__device__ inline void fetch_chunk(const ScanWork& w, int64_t first, int chunk, char* stage,
                                   int lane) {
  using Storage = typename Element<kType>::Storage;
  constexpr int kNumbers = 16 / static_cast<int>(sizeof(Storage));
  const int piece = lane % kChunkPieces;
  const int64_t byte = static_cast<int64_t>(chunk) * kChunkBytes + piece * 16;
  const char* from = static_cast<const char*>(w.passages.data) +
                     (first + lane / kChunkPieces) * w.passages.row_bytes + byte;
  const int64_t left = w.row_width_bytes - byte;
#pragma unroll
  for (int i = 0; i < kWarpRows * kChunkPieces / 32; ++i) {
    const int row = i * (32 / kChunkPieces) + lane / kChunkPieces;
    char* to = stage + piece_offset(row, piece);
    const bool there = first + row < w.passages.count;
    const char* source = from + i * (32 / kChunkPieces) * w.passages.row_bytes;
    if (there && w.aligned && left >= 16) {
      cp_async_16(to, source);
    } else {
#pragma unroll 1
      for (int e = 0; e < kNumbers; ++e) {
        const bool inside = there && e * static_cast<int64_t>(sizeof(Storage)) < left;
        reinterpret_cast<Storage*>(to)[e] =
            inside ? reinterpret_cast<const Storage*>(source)[e] : Storage{0};
      }
    }
  }
}

__device__ inline void wait_for_chunk(int stages) {
  switch (stages) {
    case 2:
      return cp_async_wait<0>();
    case 3:
      return cp_async_wait<1>();
    default:
      return cp_async_wait<kMostScanStages - 2>();
  }
}

// Makes what a launch before this one cannot have left: lists without hits or thresholds.
__global__ void __launch_bounds__(256) begin_lists_kernel(Key* thresholds, int64_t queries) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * 256 + threadIdx.x;
  if (i < queries) thresholds[i] = kNoThreshold;
}

// The exclusions of a group that fall into a tile, as bits.
template <int kQueries>
__device__ inline void mark_excluded(const ScanWork& w, int64_t query0, int live, int64_t tile,
                                     ScanShared<kQueries>& shared) {
  const int thread = static_cast<int>(threadIdx.x);
  for (int i = thread; i < kQueries * kTileParts; i += kScanThreads)
    shared.excluded[i / kTileParts][i % kTileParts] = 0;
  if (thread == 0) shared.any = 0;
  __syncthreads();
  const int64_t entries = live * w.per_query, first = tile * kTile;
  const int64_t* ids = w.exclude + query0 * w.per_query;
  for (int64_t i = thread; i < entries; i += kScanThreads) {
    const int64_t row = ids[i] - first;
    if (row < 0 || row >= kTile) continue;
    atomicOr(&shared.excluded[i / w.per_query][row / 32], 1u << (row % 32));
    atomicExch(&shared.any, 1);
  }
}

// exp needs a finite number to subtract; an infinite peak is told from the sum.
__device__ inline float finite_shift(float peak) {
  constexpr float kLargest = 3.402823466e38f;
  return peak > kLargest ? kLargest : peak < -kLargest ? -kLargest : peak;
}

// The log-sum-exp of a tile from its parts, in f64, in order.
template <int kQueries>
__device__ inline float tile_log_mass(const ScanShared<kQueries>& shared, int query) {
  float peak = -kInfinity;
  for (int part = 0; part < kTileParts; ++part) {
    const float other = shared.peak[part][query];
    peak = other > peak ? other : peak;
  }
  double sum = 0.0;
  for (int part = 0; part < kTileParts; ++part) {
    const float mass = shared.mass[part][query];
    const double own = finite_shift(shared.peak[part][query]);
    if (mass != 0.0f) sum += static_cast<double>(mass) * exp(own - finite_shift(peak));
  }
  if (sum != sum) return kNan;
  if (peak == kInfinity || peak == -kInfinity) return peak;
  return static_cast<float>(static_cast<double>(peak) + log(sum));
}

// What a warp does with the scores of its 32 rows.
template <class Scorer>
__device__ inline void use_scores(const ScanWork& w, Scorer& scorer, int64_t first, int part,
                                  int64_t query0, int lane, ScanShared<Scorer::kQueries>& shared) {
  constexpr int kColumns = Scorer::kColumns, kRows = Scorer::kRows;
  bool there[kRows];
  float row_scale[kRows], error[kRows], norm[kRows];
  const bool bounded = w.row_error != nullptr;
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    const int64_t row = first + Scorer::row(r, lane);
    there[r] = row < w.passages.count;
    row_scale[r] = there[r] && w.passages.scales != nullptr ? w.passages.scales[row] : 1.0f;
    error[r] = there[r] && bounded ? w.row_error[row] : 0.0f;
    norm[r] = there[r] && bounded ? w.row_norm[row] : 0.0f;
  }
  const bool masked = w.per_query > 0 && shared.any != 0;
#pragma unroll
  for (int c = 0; c < kColumns; ++c) {
    const int query = Scorer::query(c, lane);
    const uint32_t bits = masked ? shared.excluded[query][part] : 0u;
    float score[kRows];
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      score[r] = scorer.score(c, r);
      if (Scorer::kScalar != ScalarType::f32) score[r] *= shared.factor[query];
      if (Scorer::kScalar == ScalarType::i8) score[r] *= row_scale[r];
      if (!there[r] || bits >> Scorer::row(r, lane) & 1u) score[r] = -kInfinity;
    }
    if (w.tile_lse != nullptr) {
      float peak = -kInfinity;
#pragma unroll
      for (int r = 0; r < kRows; ++r) peak = fmaxf(peak, score[r] * w.inv_temperature);
#pragma unroll
      for (int other = Scorer::kSpread; other < 32; other *= 2)
        peak = fmaxf(peak, __shfl_xor_sync(0xffffffffu, peak, other));
      const float shift = finite_shift(peak);
      float mass = 0.0f;
#pragma unroll
      for (int r = 0; r < kRows; ++r) mass += expf(score[r] * w.inv_temperature - shift);
#pragma unroll
      for (int other = Scorer::kSpread; other < 32; other *= 2)
        mass += __shfl_xor_sync(0xffffffffu, mass, other);
      if (lane < Scorer::kSpread) {
        shared.peak[part][query] = peak;
        shared.mass[part][query] = mass;
      }
    }
    const float limit = shared.limit[query];
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      float value = score[r];
      if (bounded && there[r] && !(bits >> Scorer::row(r, lane) & 1u)) {
        const ScoreBound bound = shared.bound[query];
        const float delta = bound.a * error[r] + bound.b * norm[r] + bound.c;
        // A row of which nothing is known may be anything.
        const bool known = fabsf(delta) < kInfinity && fabsf(value) < kInfinity;
        value = known ? value + delta : kInfinity;
      }
      // Rare. False for NaN on either side.
      if (value >= limit) {
        const Key key = hit_key(value, first + Scorer::row(r, lane));
        if (key > shared.threshold[query]) {
          const int at = atomicAdd(&shared.count[query], 1);
          w.lists.list(query0 + query, blockIdx.x % w.lists.streams)[at] = key;
        }
      }
    }
  }
}

template <class Scorer, bool kQueriesShared>
__global__ void __launch_bounds__(kScanThreads, 1) scan_kernel(ScanWork w) {
  constexpr int kQueries = Scorer::kQueries;
  constexpr int64_t kOwn = (sizeof(ScanShared<kQueries>) + 127) / 128 * 128;
  auto& shared = *reinterpret_cast<ScanShared<kQueries>*>(dynamic_shared<char>());
  const int thread = static_cast<int>(threadIdx.x), lane = thread % 32, warp = thread / 32;
  const int streams = w.lists.streams;
  const int64_t stream = blockIdx.x % streams, group = blockIdx.x / streams;
  // Inside the launch, and in the batch.
  const int64_t local0 = group * kQueries, query0 = w.first_query + local0;
  const int live = static_cast<int>(w.queries - local0 < kQueries ? w.queries - local0 : kQueries);

  if (w.wanted != nullptr) {
    if (thread == 0) shared.any = 0;
    __syncthreads();
    if (thread < live && w.wanted[query0 + thread] != 0) atomicExch(&shared.any, 1);
    __syncthreads();
    if (shared.any == 0) return;
    __syncthreads();
  }

  char* stages = dynamic_shared<char>() + kOwn + warp * w.stages * kStageBytes;
  char* own_queries = dynamic_shared<char>() + kOwn + kScanWarps * w.stages * kStageBytes;
  const char* packed = w.packed.data + query0 / kQueries * w.packed.group_bytes;
  for (int q = thread; q < kQueries; q += kScanThreads) {
    const bool searched = q < live && w.k > 0 && (w.wanted == nullptr || w.wanted[query0 + q] != 0);
    shared.threshold[q] = kNoThreshold;
    shared.limit[q] = searched ? -kInfinity : kNan;
    shared.count[q] = 0;
    shared.factor[q] = w.packed.factors[query0 + q];
    if (w.packed.bounds != nullptr) shared.bound[q] = w.packed.bounds[query0 + q];
  }

  // Fill the pipeline, then bring the queries while it fills. Every step closes a group of copies,
  // an empty one behind the end, so that the wait counts right.
  StreamPlace ahead{stream, 0, 0};
  int filled = 0;
  const auto fetch = [&] {
    if (ahead.tile < w.tiles && w.chunks > 0) {
      fetch_chunk<Scorer::kScalar>(w, ahead.first_row(warp), ahead.chunk,
                                   stages + filled * kStageBytes, lane);
      ahead.advance(w.chunks, streams);
    }
    cp_async_commit();
    filled = filled + 1 == w.stages ? 0 : filled + 1;
  };
  for (int i = 0; i < w.stages - 1; ++i) fetch();
  if (kQueriesShared) {
    struct alignas(16) Piece {
      uint32_t word[4];
    };
    for (int64_t i = thread; i < w.packed.group_bytes / 16; i += kScanThreads)
      reinterpret_cast<Piece*>(own_queries)[i] = reinterpret_cast<const Piece*>(packed)[i];
  }
  const char* queries = kQueriesShared ? own_queries : packed;

  int current = 0;
  Scorer scorer;
  for (int64_t tile = stream; tile < w.tiles; tile += streams) {
    if (w.per_query > 0) mark_excluded(w, query0, live, tile, shared);
    // What other blocks have found since.
    for (int q = thread; q < live && w.k > 0; q += kScanThreads) {
      const Key other = atomicMax(&w.lists.thresholds[local0 + q], shared.threshold[q]);
      if (other > shared.threshold[q] && shared.limit[q] == shared.limit[q]) {
        shared.threshold[q] = other;
        shared.limit[q] = key_score(other);
      }
    }
    __syncthreads();
    for (int part = 0; part < kWarpParts; ++part) {
      scorer.begin();
      for (int chunk = 0; chunk < w.chunks; ++chunk) {
        wait_for_chunk(w.stages);
        // Everybody's copies have come, and everybody has read the stage that is filled next.
        __syncwarp();
        fetch();
        scorer.add(stages + current * kStageBytes, queries, chunk, lane);
        current = current + 1 == w.stages ? 0 : current + 1;
      }
      scorer.end(w.chunks);
      const int place = part * kScanWarps + warp;
      use_scores(w, scorer, tile * kTile + place * kWarpRows, place, local0, lane, shared);
    }
    __syncthreads();
    if (w.tile_lse != nullptr)
      for (int q = thread; q < live; q += kScanThreads)
        if (w.wanted == nullptr)
          w.tile_lse[(query0 + q) * w.tiles + tile] = tile_log_mass(shared, q);
    for (int q = warp; q < live && w.k > 0; q += kScanWarps) {
      const int count = shared.count[q];
      // The first k come without a threshold: get one as soon as there is one.
      if (count <= w.limit && (count <= w.k || shared.threshold[q] != kNoThreshold)) continue;
      const Key smallest =
          shrink_list(w.lists.list(local0 + q, stream), count, w.k, shared.select[warp]);
      __syncwarp();
      if (lane == 0) {
        shared.count[q] = w.k;
        if (smallest > shared.threshold[q]) {
          shared.threshold[q] = smallest;
          shared.limit[q] = key_score(smallest);
        }
      }
      __syncwarp();
    }
    __syncthreads();
  }
  cp_async_wait<0>();
  if (w.k > 0)
    for (int q = thread; q < live; q += kScanThreads) {
      atomicMax(&w.lists.thresholds[local0 + q], shared.threshold[q]);
      w.lists.counts[(local0 + q) * streams + stream] = shared.count[q];
    }
}

}  // namespace jsarag::cuda
