// A scan of rounded passages whose ids and scores are those of the f32 scan, bit for bit.
//
// Let q be the query, e the exact passage, q' and e' their rounded forms, s' the score computed
// from the rounded pair and s the score the f32 scan computes from the exact pair. Then
//     |s - s'| <= |s - q.e| + |q.(e - e')| + |(q - q').e'| + |q'.e' - s'|
//              <= g |q| |e| + |q| |e - e'| + |q - q'| |e'| + g' |q'| |e'|
// by Cauchy-Schwarz, where g and g' bound the relative error of summation: a sum of n terms in f32,
// one rounding each, is within n u (1 + small) of the sum of magnitudes, u = 2^-24, and the sum of
// magnitudes is at most the product of the norms. With |e| <= |e'| + |e - e'| this is
//     delta(row) = a * row_error + b * row_norm + c,
//     a = |q| (1 + g),  b = |q - q'| + g' |q'| + g |q|,
// c for numbers too small to be represented. row_error and row_norm are stored per row.
//
// The pass keeps every row whose upper bound s' + delta reaches the k-th largest lower bound
// s' - delta seen so far: a row it drops is below k others in exact score, strictly. So what is
// kept contains the k best under (score, id), however wide that set has to be. The kept rows are
// then scored by the f32 scan's own arithmetic, whose result does not depend on what stands beside
// a row.
#include "cpu/detail/scan_certified.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "cpu/detail/scan_pass.h"
#include "cpu/detail/top_k.h"

namespace jsarag {
namespace cpu {
namespace {

constexpr double kUnit = 5.9604644775390625e-08;  // 2^-24
constexpr double kInflate = 1.000001;             // for rounding in the bound's own arithmetic
constexpr int64_t kGroupQueries = 256;

struct Candidate {
  float lower, upper;
  int32_t id;
};

// The same for pairs of bf16, four roundings a word, in whatever order tiles add them.
double pairs_error(int64_t width) {
  return static_cast<double>(2 * (width + 1) + 8) * kUnit * 1.01;
}

struct Bound {
  float a, b, c;
};

// A float sum of `words` products in strands (scan_kernels.h).
double sum_error(int64_t words, int64_t roundings_per_word) {
  return static_cast<double>(ceil_div(words, kStrands) * roundings_per_word + kStrands + 4) *
         kUnit * 1.01;
}

Bound bound_of(Arithmetic arithmetic, const float* query, int64_t width) {
  const QueryRounding r = query_rounding(arithmetic, query, width);
  const double exact = sum_error(width, 2);
  const double rounded = arithmetic == Arithmetic::bf16_pairs  ? pairs_error(width)
                         : arithmetic == Arithmetic::i16_pairs ? 4 * kUnit
                                                               : sum_error(width, 2) + 4 * kUnit;
  const double a = r.norm * (1 + exact);
  // The last term: s' + delta is itself rounded.
  const double b = r.error + rounded * r.rounded + exact * r.norm + 4 * kUnit * r.rounded;
  const double c = static_cast<double>(width) * 4 * std::numeric_limits<float>::min();
  return {static_cast<float>(a * kInflate), static_cast<float>(b * kInflate),
          static_cast<float>(c)};
}

// One worker's candidates for one query.
class CandidateSet {
 public:
  float threshold() const { return threshold_; }

  void add(const Candidate& candidate, int64_t k) {
    if (candidate.upper < threshold_) return;
    candidates_.push_back(candidate);
    const bool first = threshold_ == kMinusInfinity;
    if (static_cast<int64_t>(candidates_.size()) >= (first ? k : limit_)) shrink(k);
  }

  const std::vector<Candidate>& all() const { return candidates_; }

  // Drops what k others are certainly better than.
  static float prune(std::vector<Candidate>& candidates, int64_t k) {
    if (static_cast<int64_t>(candidates.size()) < k) return kMinusInfinity;
    std::nth_element(candidates.begin(), candidates.begin() + (k - 1), candidates.end(),
                     [](const Candidate& a, const Candidate& b) { return a.lower > b.lower; });
    const float threshold = candidates[k - 1].lower;
    std::erase_if(candidates, [&](const Candidate& c) { return c.upper < threshold; });
    return threshold;
  }

 private:
  void shrink(int64_t k) {
    threshold_ = std::max(threshold_, prune(candidates_, k));
    limit_ = std::max<int64_t>(2 * static_cast<int64_t>(candidates_.size()), 2 * k + 64);
  }

  std::vector<Candidate> candidates_;
  float threshold_ = kMinusInfinity;
  int64_t limit_ = 0;
};

class CertifiedSink final : public ScoreSink {
 public:
  CertifiedSink(const ScanParams& p, const ScanKernels& kernels, const Excluded& excluded,
                int64_t first_query, int64_t queries, int workers, std::vector<Bound> bounds)
      : p_(p),
        kernels_(kernels),
        excluded_(excluded),
        base_(first_query),
        bounds_(std::move(bounds)),
        sets_(workers, std::vector<CandidateSet>(queries)),
        error_(workers * kPanelRows),
        norm_(workers * kPanelRows),
        lse_(kernels, workers, p.tile_lse ? queries : 0, p.inv_temperature) {}

  void begin_unit(int worker, int64_t, int64_t query0, int64_t query1) override {
    if (p_.tile_lse) lse_.begin(worker, query0, query1);
  }

  void scored(int worker, int64_t query0, int size, int64_t first, int64_t count,
              float* scores) override {
    const float* error = padded(p_.certify->row_error + first, count, error_, worker);
    const float* norm = padded(p_.certify->row_norm + first, count, norm_, worker);
    int32_t positions[kPanelRows];
    for (int r = 0; r < size; ++r, scores += kPanelRows) {
      const int64_t query = query0 + r;
      CandidateSet& set = sets_[worker][query];
      const Bound& bound = bounds_[query];
      const int found = kernels_.select_upper(scores, error, norm, bound.a, bound.b, count,
                                              set.threshold() - bound.c, positions);
      for (int i = 0; i < found; ++i) {
        const int64_t at = positions[i], id = first + at;
        if (excluded_.contains(base_ + query, id)) continue;
        set.add(candidate(bound, scores[at], error[at], norm[at], id), p_.k);
      }
      if (!p_.tile_lse) continue;
      excluded_.mask(base_ + query, first, count, scores);
      lse_.add(worker, query, scores, count);
    }
  }

  void end_unit(int worker, int64_t tile, int64_t query0, int64_t query1) override {
    if (!p_.tile_lse) return;
    const int64_t tiles = tile_count(p_.passages.count);
    for (int64_t q = query0; q < query1; ++q)
      p_.tile_lse[(base_ + q) * tiles + tile] = static_cast<float>(lse_.finish(worker, q));
  }

  // Rows that may be among the query's k best.
  std::vector<Candidate> candidates(int64_t query) const {
    std::vector<Candidate> all;
    for (const auto& sets : sets_)
      all.insert(all.end(), sets[query].all().begin(), sets[query].all().end());
    CandidateSet::prune(all, p_.k);
    return all;
  }

 private:
  // Whole vectors are read: an incomplete panel's are padded. The next panel's are asked for, being
  // too few at a time for the CPU to see that they are read in order.
  static const float* padded(const float* of, int64_t count, Buffer<float>& space, int worker) {
    for (int64_t i = 0; i < kPanelRows; i += 16) __builtin_prefetch(of + kPanelRows + i);
    if (count == kPanelRows) return of;
    float* to = space.data() + worker * kPanelRows;
    std::fill(std::copy_n(of, count, to), to + kPanelRows, 0.0f);
    return to;
  }

  // A row whose rounding error is unknown may be anything.
  static Candidate candidate(const Bound& bound, float score, float error, float norm, int64_t id) {
    const float delta = bound.a * error + bound.b * norm + bound.c;
    if (!std::isfinite(delta) || !std::isfinite(score))
      return {kMinusInfinity, -kMinusInfinity, static_cast<int32_t>(id)};
    return {score - delta, score + delta, static_cast<int32_t>(id)};
  }

  const ScanParams& p_;
  const ScanKernels& kernels_;
  const Excluded& excluded_;
  int64_t base_;
  std::vector<Bound> bounds_;
  std::vector<std::vector<CandidateSet>> sets_;
  Buffer<float> error_, norm_;
  TileLse lse_;
};

// Exact scores of one query's candidates, and its results.
void rescore(const ScanParams& p, const ScanKernels& kernels, int64_t query,
             const std::vector<Candidate>& candidates, PanelScorer& scorer, Buffer<float>& rows) {
  const PassagesView& exact = p.certify->exact;
  const int64_t row_bytes = exact.width * static_cast<int64_t>(sizeof(float));
  const QueriesView one{p.queries.data + query * exact.width, 1, exact.width};
  const PackedQueries packed(kernels, one, ScalarType::f32, nullptr, 1);
  std::vector<Hit> hits;
  const int64_t total = static_cast<int64_t>(candidates.size());
  for (int64_t start = 0; start < total; start += scorer.panel_rows()) {
    const int64_t count = std::min(scorer.panel_rows(), total - start);
    for (int64_t i = 0; row_bytes > 0 && i < count; ++i)
      std::memcpy(rows.data() + i * exact.width,
                  static_cast<const char*>(exact.data) + candidates[start + i].id * exact.row_bytes,
                  row_bytes);
    scorer.load_rows(rows.data(), row_bytes, count);
    const float* scores = scorer.score(packed, 0);
    for (int64_t i = 0; i < count; ++i)
      // False for NaN too: neither is ever returned.
      if (scores[i] > kMinusInfinity) hits.push_back({scores[i], candidates[start + i].id});
  }
  write_best(hits, p.k, p.ids + query * p.k, p.scores + query * p.k);
}

void certify_group(const ScanParams& p, const ScanKernels& kernels, const Excluded& excluded,
                   int64_t first_query, int64_t count) {
  const int64_t width = p.queries.width;
  const QueriesView group{p.queries.data + first_query * width, count, width};
  const PackedQueries packed(kernels, group, p.passages.type, nullptr, count);
  std::vector<Bound> bounds;
  for (int64_t q = 0; q < count; ++q)
    bounds.push_back(bound_of(packed.arithmetic(), group.data + q * width, width));
  const PassPlan plan = plan_pass(p.passages, packed.blocks(), p.threads);
  CertifiedSink sink(p, kernels, excluded, first_query, count, plan.workers, std::move(bounds));
  run_pass(kernels, p.passages, packed, plan, sink);
  std::vector<PanelScorer> scorers;
  std::vector<Buffer<float>> rows;
  for (int w = 0; w < plan.workers; ++w) {
    scorers.emplace_back(kernels, p.certify->exact, kernels.arithmetic(ScalarType::f32));
    rows.emplace_back(scorers.back().panel_rows() * width);
  }
  Counter queries(count);
  // A single query's few rows are not worth waking anybody.
  parallel(static_cast<int>(std::min<int64_t>(plan.workers, count)), [&](int worker) {
    for (int64_t q; (q = queries.next()) >= 0;)
      rescore(p, kernels, first_query + q, sink.candidates(q), scorers[worker], rows[worker]);
  });
}

}  // namespace

void scan_certified(const ScanParams& params) {
  const Excluded excluded(params.exclude, params.queries.count, params.passages.count);
  const int64_t groups = ceil_div(params.queries.count, kGroupQueries);
  for (int64_t g = 0; g < groups; ++g) {
    const int64_t first = params.queries.count * g / groups;
    const int64_t end = params.queries.count * (g + 1) / groups;
    certify_group(params, scan_kernels(), excluded, first, end - first);
  }
}

}  // namespace cpu

void row_errors_cpu(const RowErrorParams& params) {
  using namespace cpu;
  const ScanKernels& kernels = scan_kernels();
  const bool pairs = kernels.arithmetic(params.rounded.type) == Arithmetic::bf16_pairs;
  const int64_t width = params.rounded.width;
  Counter tiles(tile_count(params.rounded.count));
  parallel(params.threads, [&](int) {
    for (int64_t tile; (tile = tiles.next()) >= 0;) {
      const int64_t end = std::min((tile + 1) * kTile, params.rounded.count);
      for (int64_t n = tile * kTile; n < end; ++n) {
        const auto* exact = reinterpret_cast<const float*>(
            static_cast<const char*>(params.exact.data) + n * params.exact.row_bytes);
        const char* row =
            static_cast<const char*>(params.rounded.data) + n * params.rounded.row_bytes;
        const double scale = params.rounded.scales ? params.rounded.scales[n] : 1.0;
        double error = 0.0, norm = 0.0;
        for (int64_t d = 0; d < width; ++d) {
          const double near = row_value(params.rounded.type, row, d, pairs) * scale;
          error += (exact[d] - near) * (exact[d] - near);
          norm += near * near;
        }
        const auto up = [](double squared) {
          const float root = static_cast<float>(std::sqrt(squared) * kInflate);
          return std::isfinite(root) ? root : -kMinusInfinity;
        };
        params.row_error[n] = up(error);
        params.row_norm[n] = up(norm);
      }
    }
  });
}

}  // namespace jsarag
