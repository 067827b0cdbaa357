// draw on the GPU: a tile by cumulative mass in f64, then a passage inside the recomputed tile,
// whose scores are those of the scan, bit for bit.
//
// Three launches. One block per query picks the tile of each of its draws and sorts the draws by
// tile; the queries are packed as the scan packs them; then one block per (query, tile that was
// drawn) scores that tile once and answers all its draws. How many tiles were drawn is known to the
// device alone, so as many blocks start as there can be, and those without a tile leave at once.
#include "jsarag/draw.h"

#include <algorithm>
#include <stdexcept>

#include "cuda/detail/block_sort.h"
#include "cuda/detail/cumulative.h"
#include "cuda/detail/launch.h"
#include "cuda/detail/numbers.h"
#include "cuda/detail/scratch.h"
#include "cuda/detail/simt.h"
#include "cuda/detail/tile_mass.h"
#include "cuda/detail/tile_scores.h"

namespace jsarag {
namespace cuda {
namespace {

constexpr int kThreads = kMassThreads;
static_assert(kThreads == 32 * kTileWarps);
// Chunks of the cumulative mass: of a query's tiles, and of a tile's passages.
constexpr int kTileChunks = kThreads;
constexpr int kRowChunks = 32;
constexpr int64_t kChunkRows = kTile / kRowChunks;
constexpr int64_t kMaxBlocks = (int64_t{1} << 31) - 1;

// What the first launch leaves for the last.
struct Picked {
  double* rest;       // [B, M]: what is left of each uniform inside its tile
  uint64_t* order;    // [B, M]: tile << 32 | draw, ascending
  double* log_total;  // [B]: log of the mass of all tiles
  int32_t* starts;    // [B, groups + 1]: where in `order` each tile's draws begin
  int32_t* tiles;     // [B]: tiles that were drawn; 0 for a query that was answered at once
};

struct Work {
  const float* tile_lse;
  const double* uniforms;
  const int64_t* exclude;  // [B, per_query]
  int64_t per_query;
  float inv_temperature;
  int64_t queries, passages, tiles, draws;
  int64_t groups;  // most tiles that a query's draws can fall into
  int64_t* ids;
  float* logp;
  Picked picked;
};

Work work_of(const DrawParams& p) {
  Work work{};
  work.tile_lse = p.tile_lse;
  work.uniforms = p.uniforms;
  work.queries = p.queries.count;
  work.exclude = p.exclude.ids;
  work.per_query = p.exclude.ids ? p.exclude.per_query : 0;
  work.inv_temperature = p.inv_temperature;
  work.passages = p.passages.count;
  work.tiles = (work.passages + kTile - 1) / kTile;
  work.draws = p.draws;
  work.groups = std::min(work.draws, work.tiles);
  work.ids = p.ids;
  work.logp = p.logp;
  return work;
}

// Gives the packed queries and the first launch's results their places; over a null pointer it only
// measures.
void place(const DrawParams& p, Work& work, PackedGroups& packed, Scratch& scratch) {
  const ScalarType type = p.passages.type;
  packed = {};
  packed.size = packed_together(type);
  packed.group_bytes = packed.size * packed_query_bytes(type, p.queries.width);
  const int64_t groups = (p.queries.count + packed.size - 1) / packed.size;
  packed.data = scratch.take<char>(groups * packed.group_bytes);
  packed.factors = scratch.take<float>(groups * packed.size);
  work.picked.rest = scratch.take<double>(work.queries * work.draws);
  work.picked.order = scratch.take<uint64_t>(work.queries * work.draws);
  work.picked.log_total = scratch.take<double>(work.queries);
  work.picked.starts = scratch.take<int32_t>(work.queries * (work.groups + 1));
  work.picked.tiles = scratch.take<int32_t>(work.queries);
}

// Where the draws of each tile begin in the sorted order; the number of tiles.
__device__ int32_t find_groups(const uint64_t* order, int64_t draws, int32_t* starts,
                               int32_t* counts) {
  const int thread = static_cast<int>(threadIdx.x);
  int32_t found = 0;
  for (int64_t base = 0; base < draws; base += kThreads) {
    const int64_t i = base + thread;
    const bool head = i < draws && (i == 0 || order[i] >> 32 != order[i - 1] >> 32);
    counts[thread] = head ? 1 : 0;
    __syncthreads();
    // Doubling strides: counts become inclusive sums.
    for (int stride = 1; stride < kThreads; stride *= 2) {
      const int32_t left = thread >= stride ? counts[thread - stride] : 0;
      __syncthreads();
      counts[thread] += left;
      __syncthreads();
    }
    if (head) starts[found + counts[thread] - 1] = static_cast<int32_t>(i);
    found += counts[kThreads - 1];
    __syncthreads();
  }
  if (thread == 0) starts[found] = static_cast<int32_t>(draws);
  return found;
}

__global__ void __launch_bounds__(kThreads) draw_tiles_kernel(Work work) {
  __shared__ double numbers[kThreads];
  __shared__ double base[kTileChunks + 1];
  __shared__ int32_t counts[kThreads];
  __shared__ int nan;
  const int thread = static_cast<int>(threadIdx.x);
  const int64_t query = blockIdx.x;
  const float* log_mass = work.tile_lse + query * work.tiles;
  const int64_t first = query * work.draws;

  const MassPeak found = row_peak(log_mass, work.tiles, numbers, &nan);
  const double peak = found.peak;
  if (found.nan || peak == kInfinity || peak == -kInfinity) {
    const float logp = found.nan || peak == kInfinity ? kNan : -kInfinity;
    for (int64_t m = thread; m < work.draws; m += kThreads) {
      work.ids[first + m] = -1;
      work.logp[first + m] = logp;
    }
    if (thread == 0) work.picked.tiles[query] = 0;
    return;
  }

  const auto mass = [&](int64_t tile) { return exp(static_cast<double>(log_mass[tile]) - peak); };
  const int64_t chunk = (work.tiles + kTileChunks - 1) / kTileChunks;
  const int64_t begin = thread * chunk, end = begin + chunk;
  base[thread + 1] = chunk_mass(begin, end < work.tiles ? end : work.tiles, mass);
  __syncthreads();
  if (thread == 0) {
    add_up_chunks(base, kTileChunks);
    work.picked.log_total[query] = peak + log(base[kTileChunks]);
  }
  __syncthreads();

  uint64_t* order = work.picked.order + first;
  for (int64_t m = thread; m < work.draws; m += kThreads) {
    const Pick tile = pick(base, kTileChunks, chunk, work.tiles, mass, work.uniforms[first + m]);
    order[m] = static_cast<uint64_t>(tile.column) << 32 | static_cast<uint64_t>(m);
    work.picked.rest[first + m] = tile.rest;
  }
  __syncthreads();
  block_sort(order, work.draws);
  const int32_t tiles =
      find_groups(order, work.draws, work.picked.starts + query * (work.groups + 1), counts);
  if (thread == 0) work.picked.tiles[query] = tiles;
}

// Answers every draw of one query that fell into one tile.
template <class Scorer>
__global__ void __launch_bounds__(kThreads, 2) draw_passages_kernel(Work work, Scorer scorer) {
  __shared__ float scores[kTile];
  __shared__ double masses[kTile];
  __shared__ double base[kRowChunks + 1];
  __shared__ double numbers[kThreads];
  __shared__ int nan;
  const int thread = static_cast<int>(threadIdx.x);
  const int64_t query = blockIdx.x / work.groups, group = blockIdx.x % work.groups;
  if (group >= work.picked.tiles[query]) return;
  const int32_t* starts = work.picked.starts + query * (work.groups + 1) + group;
  const uint64_t* order = work.picked.order + query * work.draws;
  const auto tile = static_cast<int64_t>(order[starts[0]] >> 32);
  const int64_t first = tile * kTile;
  const int64_t left = work.passages - first;
  const int rows = static_cast<int>(left < kTile ? left : kTile);

  scorer(query, first, rows, dynamic_shared<char>(), scores);
  __syncthreads();
  for (int64_t e = thread; e < work.per_query; e += kThreads) {
    const int64_t row = work.exclude[query * work.per_query + e] - first;
    // Two entries may be equal.
    if (row >= 0 && row < rows) atomicExch(&scores[row], -kInfinity);
  }
  __syncthreads();
  for (int i = thread; i < rows; i += kThreads) scores[i] *= work.inv_temperature;
  const double peak = row_peak(scores, rows, numbers, &nan).peak;
  for (int i = thread; i < rows; i += kThreads)
    masses[i] = exp(static_cast<double>(scores[i]) - peak);
  __syncthreads();
  const auto mass = [&](int64_t row) { return masses[row]; };
  if (thread < kRowChunks) {
    const int64_t begin = thread * kChunkRows, end = begin + kChunkRows;
    base[thread + 1] = chunk_mass(begin, end < rows ? end : rows, mass);
  }
  __syncthreads();
  if (thread == 0) add_up_chunks(base, kRowChunks);
  __syncthreads();

  const double total = base[kRowChunks];
  // The tile's mass says there is something; its scores say otherwise only if the arguments are not
  // those of the scan.
  const bool dead = !(total > 0.0 && total < static_cast<double>(kInfinity));
  const double tile_logp =
      static_cast<double>(work.tile_lse[query * work.tiles + tile]) - work.picked.log_total[query];
  const double log_total = peak + log(total);
  for (int32_t i = starts[0] + thread; i < starts[1]; i += kThreads) {
    const int64_t at = query * work.draws + static_cast<int64_t>(order[i] & 0xffffffffu);
    int64_t id = -1;
    float logp = kNan;
    if (!dead) {
      const int64_t row =
          pick(base, kRowChunks, kChunkRows, rows, mass, work.picked.rest[at]).column;
      id = first + row;
      logp = static_cast<float>(tile_logp + (static_cast<double>(scores[row]) - log_total));
    }
    work.ids[at] = id;
    work.logp[at] = logp;
  }
}

}  // namespace
}  // namespace cuda

size_t draw_cuda_scratch(const DrawParams& p) {
  using namespace cuda;
  Work work = work_of(p);
  PackedGroups packed;
  Scratch scratch(nullptr);
  place(p, work, packed, scratch);
  return scratch.used();
}

void draw_cuda(const DrawParams& p, const CudaCall& call) {
  using namespace cuda;
  Work work = work_of(p);
  if (work.queries == 0 || work.draws == 0) return;
  if (work.draws > kMaxBlocks || work.groups * work.queries > kMaxBlocks)
    throw std::runtime_error("draw: more draws than one call can take; split the batch");
  const DeviceGuard guard(call.device);
  PackedGroups packed;
  Scratch scratch(call.scratch);
  place(p, work, packed, scratch);
  scratch.require(call.scratch_bytes, "draw");
  launch("draw: tiles", draw_tiles_kernel,
         LaunchShape{static_cast<unsigned>(work.queries), kThreads, 0}, call.stream, work);
  if (work.groups == 0) return;
  with_scalar_type(p.passages.type, [&](auto type) {
    constexpr ScalarType kType = decltype(type)::value;
    using Scorer = TileScorer<kType>;
    const int64_t packs = (work.queries + packed.size - 1) / packed.size * packed.size;
    launch("draw: pack queries", pack_scan_queries_kernel<kType>,
           LaunchShape{static_cast<unsigned>(packs), kPackThreads, 0}, call.stream, p.queries,
           packed);
    const bool aligned =
        reinterpret_cast<uintptr_t>(p.passages.data) % 16 == 0 && p.passages.row_bytes % 16 == 0;
    const auto chunks = static_cast<int>(row_chunks(kType, p.queries.width));
    launch(
        "draw: passages", draw_passages_kernel<Scorer>,
        LaunchShape{static_cast<unsigned>(work.queries * work.groups), kThreads, kTileSharedBytes},
        call.stream, work, Scorer{p.passages, aligned, chunks, packed});
  });
}

}  // namespace jsarag
