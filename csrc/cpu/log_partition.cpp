// log_partition on the CPU, and its gradient: attention whose keys and values are the passages. The
// scores of a panel live only until they are summed.
#include "jsarag/log_partition.h"

#include <algorithm>
#include <cmath>
#include <condition_variable>
#include <limits>
#include <mutex>
#include <vector>

#include "cpu/detail/scan_pass.h"

namespace jsarag {
namespace cpu {
namespace {

// Passages whose f32 sums are added to the f64 total in one go, in order: the sums' rounding then
// does not depend on the number of threads.
constexpr int64_t kPartTiles = 16;
constexpr int64_t kGroupQueries = 480;

double log_sum_exp(const float* values, int64_t count) {
  double peak = kMinusInfinity;
  for (int64_t i = 0; i < count; ++i) {
    if (std::isnan(values[i])) return values[i];
    peak = std::max(peak, static_cast<double>(values[i]));
  }
  if (std::isinf(peak)) return peak;
  double sum = 0.0;
  for (int64_t i = 0; i < count; ++i) sum += std::exp(values[i] - peak);
  return peak + std::log(sum);
}

// Lets workers through in the order of their tickets.
class Turnstile {
 public:
  template <typename F>
  void in_turn(int64_t ticket, F&& body) {
    std::unique_lock<std::mutex> lock(mutex_);
    turned_.wait(lock, [&] { return next_ == ticket; });
    body();
    ++next_;
    lock.unlock();
    turned_.notify_all();
  }

 private:
  std::mutex mutex_;
  std::condition_variable turned_;
  int64_t next_ = 0;
};

void backward_group(const LogPartitionBackwardParams& p, const ScanKernels& kernels,
                    const Excluded& excluded, int64_t base, int64_t count) {
  const int64_t width = p.queries.width;
  const QueriesView group{p.queries.data + base * width, count, width};
  const PackedQueries packed(kernels, group, p.passages.type, nullptr, count);
  const int64_t parts = ceil_div(tile_count(p.passages.count), kPartTiles);
  const int workers =
      static_cast<int>(std::clamp<int64_t>(p.threads, 1, std::max<int64_t>(parts, 1)));
  std::vector<PanelScorer> scorers;
  std::vector<Buffer<float>> sums, weights;
  for (int w = 0; w < workers; ++w) {
    scorers.emplace_back(kernels, p.passages, packed.arithmetic());
    sums.emplace_back(count * width);
    weights.emplace_back(kMaxBlock * kPanelRows);
  }
  std::vector<double> total(count * width, 0.0);
  Turnstile turnstile;
  Counter counter(parts);
  parallel(workers, [&](int worker) {
    PanelScorer& scorer = scorers[worker];
    float* sum = sums[worker].data();
    float* weight = weights[worker].data();
    for (int64_t part; (part = counter.next()) >= 0;) {
      std::fill_n(sum, count * width, 0.0f);
      const int64_t start = part * kPartTiles * kTile;
      const int64_t end = std::min(start + kPartTiles * kTile, p.passages.count);
      for (int64_t first = start; first < end; first += scorer.panel_rows()) {
        const int64_t rows = std::min(scorer.panel_rows(), end - first);
        scorer.load(first, rows);
        const PanelSource source{
            static_cast<const char*>(p.passages.data) + first * p.passages.row_bytes,
            p.passages.row_bytes, rows, width, p.passages.type};
        for (int64_t b = 0; b < packed.blocks(); ++b) {
          float* scores = scorer.score(packed, b);
          const int size = packed.size(b);
          for (int r = 0; r < size; ++r) {
            const int64_t query = base + packed.first(b) + r;
            float* own = weight + r * kPanelRows;
            excluded.mask(query, first, rows, scores + r * kPanelRows);
            // A query without mass has no gradient rather than a NaN one.
            if (p.lse[query] == kMinusInfinity) {
              std::fill_n(own, rows, 0.0f);
              continue;
            }
            kernels.softmax_weights(scores + r * kPanelRows, rows, p.inv_temperature, p.lse[query],
                                    own);
            if (p.passages.scales)
              for (int64_t i = 0; i < rows; ++i) own[i] *= p.passages.scales[first + i];
          }
          kernels.accumulate_rows(source, weight, size, sum + packed.first(b) * width);
        }
      }
      turnstile.in_turn(part, [&] {
        for (int64_t i = 0; i < count * width; ++i) total[i] += sum[i];
      });
    }
  });
  for (int64_t q = 0; q < count; ++q) {
    const double factor = static_cast<double>(p.grad[base + q]) * p.inv_temperature;
    for (int64_t d = 0; d < width; ++d)
      p.gradient[(base + q) * width + d] = static_cast<float>(factor * total[q * width + d]);
  }
}

}  // namespace
}  // namespace cpu

void log_partition_cpu(const LogPartitionParams& params) {
  using namespace cpu;
  const int64_t tiles = tile_count(params.passages.count);
  std::vector<float> tile_lse(params.queries.count * tiles);
  scan_cpu({params.queries, params.passages, params.exclude, nullptr, 0, params.inv_temperature,
            params.threads, nullptr, nullptr, tile_lse.data()});
  for (int64_t q = 0; q < params.queries.count; ++q)
    params.lse[q] = static_cast<float>(log_sum_exp(tile_lse.data() + q * tiles, tiles));
}

void log_partition_backward_cpu(const LogPartitionBackwardParams& params) {
  using namespace cpu;
  const Excluded excluded(params.exclude, params.queries.count, params.passages.count);
  const int64_t groups = ceil_div(params.queries.count, kGroupQueries);
  for (int64_t g = 0; g < groups; ++g) {
    const int64_t first = params.queries.count * g / groups;
    const int64_t end = params.queries.count * (g + 1) / groups;
    backward_group(params, scan_kernels(), excluded, first, end - first);
  }
}

}  // namespace jsarag
