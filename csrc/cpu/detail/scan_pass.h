// One pass over all passages for a group of queries, shared by scan, scan_certified and
// log_partition: who scores what, in which order, on which thread.
#pragma once

#include <algorithm>
#include <vector>

#include "cpu/detail/scoring.h"
#include "cpu/detail/thread_pool.h"

namespace jsarag::cpu {

// Receives scores. A unit is one tile for a range of queries; one worker handles it from begin to
// end, panels ascending, and the units a worker gets have ascending tiles.
class ScoreSink {
 public:
  virtual ~ScoreSink() = default;
  virtual void begin_unit(int worker, int64_t tile, int64_t first_query, int64_t end_query) = 0;
  // scores [size][kPanelRows] of queries first_query .. + size and passages first .. first + count;
  // may be overwritten.
  virtual void scored(int worker, int64_t first_query, int size, int64_t first, int64_t count,
                      float* scores) = 0;
  virtual void end_unit(int worker, int64_t tile, int64_t first_query, int64_t end_query) = 0;
};

struct PassPlan {
  int64_t tiles;
  int64_t parts;  // ranges of query blocks, more than one where tiles alone do not feed the threads
  int64_t run;    // tiles that a worker takes at once
  int workers;
};

inline PassPlan plan_pass(const PassagesView& passages, int64_t blocks, int threads) {
  const int64_t tiles = tile_count(passages.count);
  const int64_t wanted = 2 * static_cast<int64_t>(threads);
  int64_t parts = 1;
  if (threads > 1 && tiles > 0 && tiles < wanted)
    parts = std::clamp<int64_t>(ceil_div(wanted, tiles), 1, std::max<int64_t>(blocks, 1));
  const int64_t units = std::max<int64_t>(tiles * parts, 1);
  // What is asked for ahead of time is wasted where another worker has it next, and the first rows
  // after a jump come late: a worker stays in one piece of memory for a megabyte. Sixteen runs each
  // leave little to wait for at the end.
  constexpr int64_t kRunBytes = 1 << 20;
  const int64_t tile_bytes = std::max<int64_t>(kTile * passages.row_bytes, 1);
  const int64_t run = std::max<int64_t>(
      std::min(kRunBytes / tile_bytes, tiles / (16 * std::max<int64_t>(threads, 1))), 1);
  return {tiles, parts, run, static_cast<int>(std::clamp<int64_t>(threads, 1, units))};
}

inline void run_pass(const ScanKernels& kernels, const PassagesView& passages,
                     const PackedQueries& queries, const PassPlan& plan, ScoreSink& sink) {
  Counter units(ceil_div(plan.tiles, plan.run) * plan.parts);
  std::vector<PanelScorer> scorers;
  for (int w = 0; w < plan.workers; ++w)
    scorers.emplace_back(kernels, passages, queries.arithmetic());
  parallel(plan.workers, [&](int worker) {
    PanelScorer& scorer = scorers[worker];
    for (int64_t unit; (unit = units.next()) >= 0;) {
      const int64_t part = unit % plan.parts;
      const int64_t block0 = queries.blocks() * part / plan.parts;
      const int64_t block1 = queries.blocks() * (part + 1) / plan.parts;
      const int64_t query0 = queries.first(block0), query1 = queries.first(block1);
      const int64_t tile0 = unit / plan.parts * plan.run;
      for (int64_t tile = tile0; tile < std::min(tile0 + plan.run, plan.tiles); ++tile) {
        const int64_t end = std::min((tile + 1) * kTile, passages.count);
        sink.begin_unit(worker, tile, query0, query1);
        for (int64_t first = tile * kTile; first < end; first += scorer.panel_rows()) {
          const int64_t count = std::min(scorer.panel_rows(), end - first);
          scorer.load(first, count);
          for (int64_t b = block0; b < block1; ++b)
            sink.scored(worker, queries.first(b), queries.size(b), first, count,
                        scorer.score(queries, b));
        }
        sink.end_unit(worker, tile, query0, query1);
      }
    }
  });
}

// Streaming log-sum-exp of each query's scores in the tile at hand.
class TileLse {
 public:
  TileLse(const ScanKernels& kernels, int workers, int64_t queries, float factor)
      : kernels_(kernels), factor_(factor) {
    for (int w = 0; w < workers; ++w) states_.emplace_back(queries * 2 * kernels.lanes);
  }
  void begin(int worker, int64_t query0, int64_t query1) {
    const int lanes = kernels_.lanes;
    for (int64_t q = query0; q < query1; ++q) {
      float* state = at(worker, q);
      std::fill(state, state + lanes, kMinusInfinity);
      std::fill(state + lanes, state + 2 * lanes, 0.0f);
    }
  }
  void add(int worker, int64_t query, const float* scores, int64_t count) {
    kernels_.accumulate_lse(scores, count, factor_, at(worker, query));
  }
  double finish(int worker, int64_t query) { return finish_lse(at(worker, query), kernels_.lanes); }

 private:
  float* at(int worker, int64_t query) {
    return states_[worker].data() + query * 2 * kernels_.lanes;
  }
  const ScanKernels& kernels_;
  float factor_;
  std::vector<Buffer<float>> states_;
};

}  // namespace jsarag::cpu
