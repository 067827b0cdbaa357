// scan on the CPU: every passage is read once per group of queries, scored panel by panel, and only
// what may be among the k best is kept.
#include "jsarag/scan.h"

#include <algorithm>
#include <vector>

#include "cpu/detail/scan_certified.h"
#include "cpu/detail/scan_pass.h"
#include "cpu/detail/top_k.h"

namespace jsarag {
namespace cpu {
namespace {

// Queries that share one pass: as many as the survivors' buffers allow.
constexpr int64_t kGroupQueries = 1024;
constexpr int64_t kGroupBytes = 256 << 20;

class ScanSink final : public ScoreSink {
 public:
  ScanSink(const ScanParams& p, const ScanKernels& kernels, const Excluded& excluded,
           int64_t first_query, int64_t queries, int workers)
      : p_(p),
        kernels_(kernels),
        excluded_(excluded),
        base_(first_query),
        lse_(kernels, workers, p.tile_lse ? queries : 0, p.inv_temperature) {
    for (int w = 0; w < workers && p.k > 0; ++w) best_.emplace_back(queries, p.k);
  }

  void begin_unit(int worker, int64_t, int64_t query0, int64_t query1) override {
    if (p_.tile_lse) lse_.begin(worker, query0, query1);
  }

  void scored(int worker, int64_t query0, int size, int64_t first, int64_t count,
              float* scores) override {
    int32_t positions[kPanelRows];
    for (int r = 0; r < size; ++r, scores += kPanelRows) {
      const int64_t query = query0 + r;
      excluded_.mask(base_ + query, first, count, scores);
      if (p_.k > 0) {
        TopK& best = best_[worker];
        const int found = kernels_.select(scores, count, best.threshold(query), positions);
        if (found > 0) best.add(query, scores, first, positions, found);
      }
      if (p_.tile_lse) lse_.add(worker, query, scores, count);
    }
  }

  void end_unit(int worker, int64_t tile, int64_t query0, int64_t query1) override {
    if (!p_.tile_lse) return;
    const int64_t tiles = tile_count(p_.passages.count);
    for (int64_t q = query0; q < query1; ++q)
      p_.tile_lse[(base_ + q) * tiles + tile] = static_cast<float>(lse_.finish(worker, q));
  }

  void write(int64_t query, std::vector<Hit>& all) const {
    all.clear();
    for (const TopK& best : best_) best.append_to(query, all);
    write_best(all, p_.k, p_.ids + (base_ + query) * p_.k, p_.scores + (base_ + query) * p_.k);
  }

 private:
  const ScanParams& p_;
  const ScanKernels& kernels_;
  const Excluded& excluded_;
  int64_t base_;
  std::vector<TopK> best_;
  TileLse lse_;
};

void scan_group(const ScanParams& p, const ScanKernels& kernels, const Excluded& excluded,
                int64_t first_query, int64_t count) {
  const QueriesView group{p.queries.data + first_query * p.queries.width, count, p.queries.width};
  const PackedQueries packed(kernels, group, p.passages.type, nullptr, count);
  const PassPlan plan = plan_pass(p.passages, packed.blocks(), p.threads);
  ScanSink sink(p, kernels, excluded, first_query, count, plan.workers);
  run_pass(kernels, p.passages, packed, plan, sink);
  if (p.k == 0) return;
  Counter queries(count);
  const int workers = count * p.k >= 4096 ? plan.workers : 1;
  parallel(workers, [&](int) {
    std::vector<Hit> all;
    for (int64_t q; (q = queries.next()) >= 0;) sink.write(q, all);
  });
}

}  // namespace
}  // namespace cpu

void scan_cpu(const ScanParams& params) {
  using namespace cpu;
  if (params.certify != nullptr) return scan_certified(params);
  const int64_t per_query =
      TopK::capacity(params.k) * static_cast<int64_t>(sizeof(Hit)) * params.threads;
  const int64_t fits = std::clamp<int64_t>(kGroupBytes / per_query, 1, kGroupQueries);
  const Excluded excluded(params.exclude, params.queries.count, params.passages.count);
  const int64_t groups = ceil_div(params.queries.count, fits);
  for (int64_t g = 0; g < groups; ++g) {
    const int64_t first = params.queries.count * g / groups;
    const int64_t end = params.queries.count * (g + 1) / groups;
    scan_group(params, scan_kernels(), excluded, first, end - first);
  }
}

}  // namespace jsarag
