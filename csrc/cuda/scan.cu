// scan on CUDA: queries packed once, one streaming pass per batch of queries
// (detail/scan_stream.h), one merge; for a certified scan, exact scores of what may be among the k
// best, and a second pass for queries whose candidates were too few to be certain. Many queries go
// through Hopper's tensor cores in waves of passages instead (detail/scan_waves.h).
#include "jsarag/scan.h"

#include <algorithm>

#include "cuda/detail/block_sort.h"
#include "cuda/detail/element.h"
#include "cuda/detail/launch.h"
#include "cuda/detail/scan_queries.h"
#include "cuda/detail/scan_scorers.h"
#include "cuda/detail/scan_stream.h"
#include "cuda/detail/scan_waves.h"
#include "cuda/detail/scan_wgmma.h"
#include "cuda/detail/scratch.h"
#include "cuda/detail/top_k.h"

namespace jsarag {
namespace cuda {
namespace {

// Streams of one launch, at most. Scratch is sized for them whatever device comes.
constexpr int kMostStreams = 160;
// Lists of hits of one launch, beyond what one group of queries needs.
constexpr int64_t kListBytes = 256 << 20;
// Groups that stream side by side, as a share of the multiprocessors: each still has some of its
// own.
constexpr int kStreamsPerGroup = 8;

// One pass: who is searched for what.
struct Pass {
  QueriesView queries;
  PassagesView passages;
  ExcludeView exclude;
  float inv_temperature;
  int k;
  float* tile_lse;
  const float* row_error;  // with row_norm: hits are upper bounds of exact scores
  const float* row_norm;
  const int* wanted;
  MergeOutput out;
};

int64_t list_capacity(int k) { return 2 * static_cast<int64_t>(k) + 64 + kTile; }
int64_t list_bytes(int k) {
  return kMostStreams * (list_capacity(k) * static_cast<int64_t>(sizeof(Key)) + 4) + 8;
}

// Queries that share a reading: the fewest that hold the batch, fewer where their lists are long.
int group_size(const Pass& pass) {
  const ScalarType type = pass.passages.type;
  const int most = type == ScalarType::f32 ? 8 : type == ScalarType::i8 ? 32 : 64;
  int size = type == ScalarType::f32 ? 1 : 8;
  const auto grown = [&] { return size == 1 ? 4 : 2 * size; };
  while (size < most && size < pass.queries.count && grown() * list_bytes(pass.k) <= 2 * kListBytes)
    size = grown();
  return size;
}

struct PassPlan {
  int size;         // queries per group
  int64_t groups;   // of the batch
  int64_t queries;  // per launch, at most
  PackedGroups packed;
  HitLists lists;
};

PassPlan plan_pass(const Pass& pass, Scratch& scratch) {
  PassPlan plan{};
  plan.size = group_size(pass);
  plan.groups = ceil_div(pass.queries.count, plan.size);
  const int64_t fits = pass.k > 0 ? kListBytes / list_bytes(pass.k) : kListBytes;
  const int64_t groups = std::clamp<int64_t>(fits / plan.size, 1, kMostStreams / kStreamsPerGroup);
  plan.queries = std::min(groups, plan.groups) * plan.size;
  plan.packed.size = plan.size;
  plan.packed.group_bytes = plan.size * packed_query_bytes(pass.passages.type, pass.queries.width);
  plan.packed.data = scratch.take<char>(plan.groups * plan.packed.group_bytes);
  plan.packed.factors = scratch.take<float>(plan.groups * plan.size);
  if (pass.row_error != nullptr)
    plan.packed.bounds = scratch.take<ScoreBound>(plan.groups * plan.size);
  if (pass.k > 0) {
    plan.lists.capacity = list_capacity(pass.k);
    plan.lists.keys = scratch.take<Key>(plan.queries * kMostStreams * plan.lists.capacity);
    plan.lists.counts = scratch.take<int>(plan.queries * kMostStreams);
    plan.lists.thresholds = scratch.take<Key>(plan.queries);
  }
  return plan;
}

template <class Scorer>
void launch_scan(ScanWork work, unsigned blocks, const CudaCall& call) {
  const size_t most = shared_memory_limit(call.device);
  for (const bool in_shared : {true, false}) {
    const int64_t query_bytes = in_shared ? work.packed.group_bytes : 0;
    for (work.stages = kMostScanStages; work.stages >= 2; --work.stages) {
      const size_t bytes = scan_shared_bytes<Scorer>(work.stages, query_bytes);
      if (bytes > most) continue;
      return launch("scan", in_shared ? scan_kernel<Scorer, true> : scan_kernel<Scorer, false>,
                    LaunchShape{blocks, kScanThreads, bytes}, call.stream, work);
    }
  }
  throw std::runtime_error("scan: the device has too little shared memory for one block");
}

template <ScalarType kType>
void launch_scan(int size, const ScanWork& work, unsigned blocks, const CudaCall& call) {
  if constexpr (kType == ScalarType::f32) {
    if (size == 1) return launch_scan<FloatScorer<1>>(work, blocks, call);
    if (size == 4) return launch_scan<FloatScorer<4>>(work, blocks, call);
    return launch_scan<FloatScorer<8>>(work, blocks, call);
  } else {
    if (size == 8) return launch_scan<TensorScorer<kType, 1>>(work, blocks, call);
    if (size == 16) return launch_scan<TensorScorer<kType, 2>>(work, blocks, call);
    if constexpr (kType != ScalarType::i8)
      if (size == 64) return launch_scan<TensorScorer<kType, 8>>(work, blocks, call);
    return launch_scan<TensorScorer<kType, 4>>(work, blocks, call);
  }
}

template <ScalarType kType>
void run_pass(const Pass& pass, const PassPlan& plan, const CudaCall& call) {
  const PassagesView& passages = pass.passages;
  launch("scan: pack queries", pack_scan_queries_kernel<kType>,
         LaunchShape{static_cast<unsigned>(plan.groups * plan.size), kPackThreads, 0}, call.stream,
         pass.queries, plan.packed);
  ScanWork work{};
  work.passages = passages;
  work.row_width_bytes = passages.width * scalar_bytes(kType);
  work.aligned =
      reinterpret_cast<uintptr_t>(passages.data) % 16 == 0 && passages.row_bytes % 16 == 0;
  work.chunks = static_cast<int>(row_chunks(kType, passages.width));
  work.packed = plan.packed;
  work.exclude = pass.exclude.ids;
  work.per_query = pass.exclude.ids != nullptr ? pass.exclude.per_query : 0;
  work.inv_temperature = pass.inv_temperature;
  work.tile_lse = pass.tile_lse;
  work.tiles = ceil_div(passages.count, kTile);
  work.k = pass.k;
  work.limit = static_cast<int>(list_capacity(pass.k) - kTile);
  work.lists = plan.lists;
  work.row_error = pass.row_error;
  work.row_norm = pass.row_norm;
  work.wanted = pass.wanted;
  const int64_t processors = multiprocessors(call.device);
  for (int64_t first = 0; first < pass.queries.count; first += plan.queries) {
    work.first_query = first;
    work.queries = std::min(plan.queries, pass.queries.count - first);
    const int64_t groups = ceil_div(work.queries, plan.size);
    // One block per multiprocessor; a stream without a tile would only be waited for.
    work.lists.streams = static_cast<int>(
        std::clamp<int64_t>(std::min(processors / groups, work.tiles), 1, kMostStreams));
    if (pass.k > 0)
      launch("scan: begin lists", begin_lists_kernel,
             LaunchShape{static_cast<unsigned>(ceil_div(work.queries, 256)), 256, 0}, call.stream,
             work.lists.thresholds, work.queries);
    launch_scan<kType>(plan.size, work, static_cast<unsigned>(groups * work.lists.streams), call);
    if (pass.k == 0) continue;
    MergeOutput out = pass.out;
    if (out.keys != nullptr) out.keys += first * pass.k;
    if (out.ids != nullptr) out.ids += first * pass.k;
    if (out.scores != nullptr) out.scores += first * pass.k;
    launch("scan: merge", merge_hits_kernel,
           LaunchShape{static_cast<unsigned>(work.queries), kMergeThreads,
                       static_cast<size_t>(pass.k) * sizeof(Key)},
           call.stream, work.lists, pass.k, pass.wanted ? pass.wanted + first : nullptr, out);
  }
}

void run_pass(const Pass& pass, const PassPlan& plan, const CudaCall& call) {
  with_scalar_type(pass.passages.type,
                   [&](auto type) { run_pass<decltype(type)::value>(pass, plan, call); });
}

// Candidates of a certified scan, best upper bounds first.
int candidates_for(int k) { return k + std::min(3 * k + 64, 1024); }

struct RescoreWork {
  const Key* candidates;  // [B, count]
  int count, k;
  const float* queries;  // [B, width]
  PassagesView exact;
  bool aligned;
  int64_t* ids;
  float* scores;
  int* wanted;  // [B] out: 1 where a row that is no candidate may belong to the k best
};

constexpr int kRescoreThreads = 256;

// One block per query, `count` keys of dynamic shared memory. The candidates are the largest upper
// bounds, so a row that is none has an exact score of at most the smallest of theirs: the k best
// are certain where the k-th exact score is above it.
__global__ void __launch_bounds__(kRescoreThreads) rescore_kernel(RescoreWork w) {
  __shared__ int found;
  const int thread = static_cast<int>(threadIdx.x);
  const int64_t query = blockIdx.x;
  const Key* candidates = w.candidates + query * w.count;
  uint64_t* best = dynamic_shared<uint64_t>();
  if (thread == 0) found = 0;
  __syncthreads();
  for (int i = thread; i < w.count; i += kRescoreThreads) {
    if (candidates[i] == 0) continue;
    const int64_t id = key_id(candidates[i]);
    const auto* row = reinterpret_cast<const float*>(static_cast<const char*>(w.exact.data) +
                                                     id * w.exact.row_bytes);
    const float score =
        exact_score(w.queries + query * w.exact.width, row, w.exact.width, w.aligned);
    // False for NaN, too: neither is ever returned. Complements: block_sort puts the smallest
    // first.
    if (score > -kInfinity) best[atomicAdd(&found, 1)] = ~hit_key(score, id);
  }
  __syncthreads();
  const int total = found;
  block_sort(best, total);
  for (int i = thread; i < w.k; i += kRescoreThreads) {
    const bool there = i < total;
    w.ids[query * w.k + i] = there ? key_id(~best[i]) : -1;
    w.scores[query * w.k + i] = there ? key_score(~best[i]) : -kInfinity;
  }
  if (thread != 0) return;
  const Key last = candidates[w.count - 1];
  const bool all = last == 0;  // there are no further rows
  w.wanted[query] = all || (total >= w.k && key_score(~best[w.k - 1]) > key_score(last)) ? 0 : 1;
}

// A batch in waves: what it needs, and whether it may.
struct WavePlan {
  bool fits = false;
  ScanProduct product{};
  float* factors = nullptr;
  WaveHits hits{};
  float* peaks = nullptr;
  float* sums = nullptr;

  WavePlan(const ScanParams& p, int device, Scratch& scratch) {
    if (p.queries.count < kFewestWaveQueries || p.k > kMostWaveHits || p.certify != nullptr ||
        p.passages.count == 0)
      return;
    const int64_t stride = ceil_div(p.queries.width, 8) * 8;
    product = {nullptr,         stride,
               p.passages.data, p.passages.row_bytes / 2,
               p.passages.type, static_cast<int>(p.queries.width)};
    fits = p.passages.row_bytes % 2 == 0 && scan_wgmma_fits(product, device);
    if (!fits) return;
    const int64_t queries = std::min(p.queries.count, kWaveQueries);
    hits.k = static_cast<int>(p.k);
    hits.capacity = hits.k > 0 ? wave_capacity(hits.k) : 0;  // masses alone have no candidates
    product.queries = scratch.take<uint16_t>(queries * stride);
    factors = scratch.take<float>(queries);
    hits.best = scratch.take<Key>(queries * hits.k);
    hits.found = scratch.take<int>(queries);
    hits.candidates = scratch.take<Key>(queries * hits.capacity);
    hits.counts = scratch.take<int>(queries);
    hits.thresholds = scratch.take<float>(queries);
    // Of all queries: the pass that answers them comes at the end.
    hits.overflowed = scratch.take<int>(p.queries.count);
    int64_t most = 0;
    for (int64_t first = 0; first < p.passages.count;) {
      const int64_t size =
          wave_size(first, p.passages.count, queries, hits.k, p.tile_lse != nullptr);
      most = std::max(most, size);
      first += size;
    }
    if (p.tile_lse == nullptr) return;
    peaks = scratch.take<float>(queries * ceil_div(most, kScanColumns));
    sums = scratch.take<float>(queries * ceil_div(most, kScanColumns));
  }
};

unsigned wave_blocks(int64_t threads) {
  return static_cast<unsigned>(ceil_div(threads, kWaveThreads));
}

// Queries begin .. begin + count, all passages.
void run_waves(const ScanParams& p, WavePlan plan, int64_t begin, int count, const CudaCall& call) {
  const int64_t width = p.queries.width, tiles = ceil_div(p.passages.count, kTile);
  const QueriesView queries{p.queries.data + begin * width, count, width};
  auto* rounded = static_cast<uint16_t*>(const_cast<void*>(plan.product.queries));
  const LaunchShape block_per_query{static_cast<unsigned>(count), kPackThreads, 0};
  const auto round_queries = p.passages.type == ScalarType::bf16
                                 ? round_scan_queries_kernel<ScalarType::bf16>
                                 : round_scan_queries_kernel<ScalarType::f16>;
  launch("scan: round queries", round_queries, block_per_query, call.stream, queries, rounded,
         plan.product.query_stride, plan.factors);
  WaveHits hits = plan.hits;
  hits.overflowed += begin;
  launch("scan: begin waves", begin_waves_kernel, LaunchShape{wave_blocks(count), kWaveThreads, 0},
         call.stream, hits, count);
  const bool excluding = p.exclude.ids != nullptr && p.exclude.per_query > 0;
  const MergeOutput out{p.ids + begin * p.k, p.scores + begin * p.k, nullptr};
  for (int64_t first = 0; first < p.passages.count;) {
    ScanProduct product = plan.product;
    product.passages = static_cast<const char*>(p.passages.data) + first * p.passages.row_bytes;
    ScanWave wave{};
    wave.queries = count;
    wave.first = first;
    wave.count =
        static_cast<int>(wave_size(first, p.passages.count, count, hits.k, p.tile_lse != nullptr));
    wave.factors = plan.factors;
    wave.inv_temperature = p.inv_temperature;
    wave.thresholds = hits.thresholds;
    wave.exclude = excluding ? p.exclude.ids + begin * p.exclude.per_query : nullptr;
    wave.excluded = p.exclude.per_query;
    wave.candidates = hits.candidates;
    wave.counts = hits.counts;
    wave.capacity = hits.capacity;
    wave.peaks = plan.peaks;
    wave.sums = plan.sums;
    launch_scan_wgmma(product, wave, call.device, call.stream);
    if (p.tile_lse != nullptr)
      launch("scan: join halves", join_halves_kernel,
             LaunchShape{wave_blocks(count * ceil_div(wave.count, kTile)), kWaveThreads, 0},
             call.stream, wave, p.tile_lse + begin * tiles, tiles);
    first += wave.count;
    if (hits.k > 0)
      launch("scan: keep best", keep_best_kernel,
             LaunchShape{static_cast<unsigned>(count), kWaveThreads,
                         static_cast<size_t>(hits.k) * sizeof(Key)},
             call.stream, hits, first == p.passages.count, out);
  }
}

// What scan_cuda does, in order, over real scratch or over none, which measures it.
struct ScanPlan {
  Pass first, second;
  PassPlan first_plan, second_plan;
  Key* candidates = nullptr;
  int* wanted = nullptr;
  WavePlan waves;

  ScanPlan(const ScanParams& p, int device, Scratch& scratch) : waves(p, device, scratch) {
    const auto k = static_cast<int>(p.k);
    first = {p.queries,  p.passages, p.exclude, p.inv_temperature, k,
             p.tile_lse, nullptr,    nullptr,   nullptr,           {p.ids, p.scores, nullptr}};
    if (waves.fits) {
      second = first;
      second.tile_lse = nullptr;
      second.wanted = waves.hits.overflowed;
      if (k > 0) second_plan = plan_pass(second, scratch);
      return;
    }
    if (p.certify != nullptr && k > 0) {
      const int count = candidates_for(k);
      candidates = scratch.take<Key>(p.queries.count * count);
      wanted = scratch.take<int>(p.queries.count);
      second = first;
      second.passages = p.certify->exact;
      second.tile_lse = nullptr;
      second.wanted = wanted;
      first.k = count;
      first.row_error = p.certify->row_error;
      first.row_norm = p.certify->row_norm;
      first.out = {nullptr, nullptr, candidates};
      second_plan = plan_pass(second, scratch);
    }
    first_plan = plan_pass(first, scratch);
  }
};

}  // namespace
}  // namespace cuda

size_t scan_cuda_scratch(const ScanParams& p, int device) {
  cuda::Scratch scratch(nullptr);
  const cuda::ScanPlan plan(p, device, scratch);
  return scratch.used();
}

void scan_cuda(const ScanParams& p, const CudaCall& call) {
  using namespace cuda;
  if (p.queries.count == 0) return;
  const DeviceGuard guard(call.device);
  Scratch scratch(call.scratch);
  const ScanPlan plan(p, call.device, scratch);
  scratch.require(call.scratch_bytes, "scan");
  if (plan.waves.fits) {
    for (int64_t begin = 0; begin < p.queries.count; begin += kWaveQueries)
      run_waves(p, plan.waves, begin,
                static_cast<int>(std::min(kWaveQueries, p.queries.count - begin)), call);
    // Ends at once where no query overflowed.
    if (p.k > 0) run_pass(plan.second, plan.second_plan, call);
    return;
  }
  run_pass(plan.first, plan.first_plan, call);
  if (plan.candidates == nullptr) return;
  const PassagesView& exact = p.certify->exact;
  const bool aligned = (reinterpret_cast<uintptr_t>(exact.data) | exact.row_bytes) % 16 == 0 &&
                       reinterpret_cast<uintptr_t>(p.queries.data) % 4 == 0;
  const RescoreWork work{plan.candidates, plan.first.k, plan.second.k, p.queries.data, exact,
                         aligned,         p.ids,        p.scores,      plan.wanted};
  launch("scan: rescore", rescore_kernel,
         LaunchShape{static_cast<unsigned>(p.queries.count), kRescoreThreads,
                     static_cast<size_t>(plan.first.k) * sizeof(Key)},
         call.stream, work);
  // Ends at once where every query is certain.
  run_pass(plan.second, plan.second_plan, call);
}

}  // namespace jsarag
