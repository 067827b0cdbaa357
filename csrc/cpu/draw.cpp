// draw on the CPU: a tile by cumulative mass in f64, then a passage inside the recomputed tile.
// Draws are grouped by tile, so a tile is read once however many draws fall into it; its scores
// are those of the scan, bit for bit.
#include "jsarag/draw.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "cpu/detail/scoring.h"
#include "cpu/detail/thread_pool.h"

namespace jsarag {
namespace cpu {
namespace {

// The largest double below 1: what is left of a uniform inside its share.
constexpr double kBelowOne = 1.0 - 1.1102230246251565e-16;

struct Draw {
  int64_t tile;
  int32_t query;
  int64_t at;        // query * M + draw
  double rest;       // what is left of the uniform inside the tile, in [0, 1)
  double tile_logp;  // log(mass of the tile / total)
};

struct Pick {
  int64_t column;
  double rest;
};

// The column whose share of the cumulative mass holds u; columns without mass are never picked.
// cumulative is ascending and its last entry positive.
Pick pick(const std::vector<double>& cumulative, double u) {
  const double target = u * cumulative.back();
  auto it = std::upper_bound(cumulative.begin(), cumulative.end(), target);
  // Rounding may put the target on the total: the last column with mass is meant.
  if (it == cumulative.end())
    it = std::lower_bound(cumulative.begin(), cumulative.end(), cumulative.back());
  const int64_t column = it - cumulative.begin();
  const double before = column > 0 ? cumulative[column - 1] : 0.0;
  const double rest = (target - before) / (*it - before);
  return {column, std::clamp(rest, 0.0, kBelowOne)};
}

// Picks the tile of each draw of one query; queries without mass are answered at once.
void pick_tiles(const DrawParams& p, int64_t query, std::vector<Draw>& draws) {
  const int64_t tiles = tile_count(p.passages.count);
  const float* log_mass = p.tile_lse + query * tiles;
  double peak = kMinusInfinity;
  bool broken = false;
  for (int64_t t = 0; t < tiles; ++t) {
    broken = broken || std::isnan(log_mass[t]) || log_mass[t] == -kMinusInfinity;
    peak = std::max(peak, static_cast<double>(log_mass[t]));
  }
  if (broken || peak == kMinusInfinity) {
    const float logp = broken ? std::numeric_limits<float>::quiet_NaN() : kMinusInfinity;
    std::fill_n(p.ids + query * p.draws, p.draws, int64_t{-1});
    std::fill_n(p.logp + query * p.draws, p.draws, logp);
    return;
  }
  std::vector<double> cumulative(tiles);
  double total = 0.0;
  for (int64_t t = 0; t < tiles; ++t) cumulative[t] = total += std::exp(log_mass[t] - peak);
  const double log_total = peak + std::log(total);
  for (int64_t m = 0; m < p.draws; ++m) {
    const int64_t at = query * p.draws + m;
    const Pick found = pick(cumulative, p.uniforms[at]);
    draws.push_back({found.column, static_cast<int32_t>(query), at, found.rest,
                     log_mass[found.column] - log_total});
  }
}

// Answers the draws of one query inside one tile, whose scores are given.
void pick_passages(const DrawParams& p, const Draw* begin, const Draw* end, const float* scores,
                   int64_t count, std::vector<double>& cumulative) {
  float peak = kMinusInfinity;
  for (int64_t i = 0; i < count; ++i) peak = std::max(peak, scores[i] * p.inv_temperature);
  cumulative.resize(count);
  double total = 0.0;
  for (int64_t i = 0; i < count; ++i)
    cumulative[i] = total += std::exp(static_cast<double>(scores[i] * p.inv_temperature) - peak);
  // The tile's mass says there is something; its scores say otherwise only if the arguments are not
  // those of the scan.
  const bool dead = !(total > 0.0) || !std::isfinite(total);
  const double log_total = peak + std::log(total);
  for (const Draw* draw = begin; draw != end; ++draw) {
    if (dead) {
      p.ids[draw->at] = -1;
      p.logp[draw->at] = std::numeric_limits<float>::quiet_NaN();
      continue;
    }
    const int64_t slot = pick(cumulative, draw->rest).column;
    p.ids[draw->at] = draw->tile * kTile + slot;
    const double inside = static_cast<double>(scores[slot] * p.inv_temperature) - log_total;
    p.logp[draw->at] = static_cast<float>(draw->tile_logp + inside);
  }
}

// All draws of one tile.
void draw_tile(const DrawParams& p, const ScanKernels& kernels, const Excluded& excluded,
               PanelScorer& scorer, const Draw* begin, const Draw* end) {
  std::vector<int32_t> queries;
  std::vector<const Draw*> starts;
  for (const Draw* draw = begin; draw != end; ++draw)
    if (queries.empty() || queries.back() != draw->query) {
      queries.push_back(draw->query);
      starts.push_back(draw);
    }
  starts.push_back(end);
  const int64_t count = static_cast<int64_t>(queries.size());
  const int64_t first = begin->tile * kTile;
  const int64_t rows = std::min(kTile, p.passages.count - first);
  const PackedQueries packed(kernels, p.queries, p.passages.type, queries.data(), count);
  std::vector<float> scores(count * kTile);
  for (int64_t at = 0; at < rows; at += scorer.panel_rows()) {
    const int64_t here = std::min(scorer.panel_rows(), rows - at);
    scorer.load(first + at, here);
    for (int64_t b = 0; b < packed.blocks(); ++b) {
      const float* block = scorer.score(packed, b);
      for (int r = 0; r < packed.size(b); ++r)
        std::copy_n(block + r * kPanelRows, here, &scores[(packed.first(b) + r) * kTile + at]);
    }
  }
  std::vector<double> cumulative;
  for (int64_t i = 0; i < count; ++i) {
    excluded.mask(queries[i], first, rows, &scores[i * kTile]);
    pick_passages(p, starts[i], starts[i + 1], &scores[i * kTile], rows, cumulative);
  }
}

}  // namespace
}  // namespace cpu

void draw_cpu(const DrawParams& params) {
  using namespace cpu;
  const ScanKernels& kernels = scan_kernels();
  const Excluded excluded(params.exclude, params.queries.count, params.passages.count);
  std::vector<Draw> draws;
  draws.reserve(params.queries.count * params.draws);
  for (int64_t q = 0; q < params.queries.count; ++q) pick_tiles(params, q, draws);
  std::stable_sort(draws.begin(), draws.end(),
                   [](const Draw& a, const Draw& b) { return a.tile < b.tile; });
  std::vector<int64_t> starts;
  for (size_t i = 0; i < draws.size(); ++i)
    if (i == 0 || draws[i].tile != draws[i - 1].tile) starts.push_back(static_cast<int64_t>(i));
  const int64_t groups = static_cast<int64_t>(starts.size());
  starts.push_back(static_cast<int64_t>(draws.size()));
  const int workers =
      static_cast<int>(std::clamp<int64_t>(params.threads, 1, std::max<int64_t>(groups, 1)));
  std::vector<PanelScorer> scorers;
  for (int w = 0; w < workers; ++w)
    scorers.emplace_back(kernels, params.passages, kernels.arithmetic(params.passages.type));
  Counter counter(groups);
  parallel(workers, [&](int worker) {
    for (int64_t g; (g = counter.next()) >= 0;)
      draw_tile(params, kernels, excluded, scorers[worker], draws.data() + starts[g],
                draws.data() + starts[g + 1]);
  });
}

}  // namespace jsarag
