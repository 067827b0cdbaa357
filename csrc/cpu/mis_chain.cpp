// mis_chain on the CPU. A step is a dozen instructions and depends on the one before, so there is
// nothing to vectorise inside a chain; chains go to threads once there are enough of them.
#include "jsarag/mis_chain.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <vector>

#include "cpu/detail/thread_pool.h"

namespace jsarag {
namespace {

// Below this many steps in all, waking another thread costs more than it saves.
constexpr int64_t kStepsPerThread = 1 << 14;
constexpr int64_t kChainsPerTask = 16;

// log(uniform) < log_ratio, given chance = exp(min(log_ratio, 0)). The logarithm is taken only
// where the uniform is too close to the chance for the comparison of the two to be certain: both
// functions are within an ulp, and an ulp of a logarithm (at most 745) is 1.1e-13.
bool below(double uniform, double log_ratio, double chance) {
  constexpr double kDoubt = 1e-12, kSmallest = 1e-290;
  if (uniform >= 0.0 && chance > kSmallest) {
    if (log_ratio > 0.0 && uniform <= 1.0) return true;
    if (log_ratio < 0.0 && uniform < chance * (1.0 - kDoubt)) return true;
    if (log_ratio < 0.0 && uniform > chance * (1.0 + kDoubt)) return false;
  }
  return std::log(uniform) < log_ratio;
}

template <typename Uniform>
void run_chain(const MisChainParams& p, int64_t chain, double* recycled) {
  const int64_t steps = p.steps;
  const float* weight = p.log_weight + chain * steps;
  const Uniform* uniforms = static_cast<const Uniform*>(p.uniforms) + chain * steps;
  int32_t* state = p.state + chain * steps;
  bool* accepted = p.accepted + chain * steps;
  float* visits = p.visits + chain * (steps + 1);
  std::fill(visits, visits + steps + 1, 0.0f);
  std::fill(recycled, recycled + steps + 1, 0.0);

  int64_t held = steps;  // the start's column
  double held_weight = p.start_log_weight ? p.start_log_weight[chain] : std::nan("");
  for (int64_t step = 0; step < steps; ++step) {
    const double proposed = weight[step];
    const bool free = (step == 0 && p.start_log_weight == nullptr) ||
                      (std::isnan(held_weight) && !std::isnan(proposed));
    const double log_ratio = proposed - held_weight;
    double chance = 0.0;  // also where the ratio is NaN
    if (free || log_ratio >= 0.0) {
      chance = 1.0;
    } else if (log_ratio < 0.0) {
      chance = std::exp(log_ratio);
    }
    const bool move = free || below(uniforms[step], log_ratio, chance);

    recycled[step] += chance;
    recycled[held] += 1.0 - chance;
    if (move) {
      held = step;
      held_weight = proposed;
    }
    visits[held] += 1.0f;
    state[step] = held == steps ? -1 : static_cast<int32_t>(held);
    accepted[step] = move;
  }
  float* out = p.recycled + chain * (steps + 1);
  for (int64_t i = 0; i <= steps; ++i) out[i] = static_cast<float>(recycled[i]);
}

}  // namespace

void mis_chain_cpu(const MisChainParams& p, int threads) {
  const int64_t useful = p.chains * p.steps / kStepsPerThread + 1;
  threads = static_cast<int>(std::clamp<int64_t>(threads, 1, useful));
  std::vector<double> scratch(static_cast<size_t>(threads) * (p.steps + 1));
  std::atomic<int64_t> next{0};
  cpu::parallel(threads, [&](int worker) {
    double* recycled = scratch.data() + worker * (p.steps + 1);
    for (;;) {
      const int64_t first = next.fetch_add(kChainsPerTask);
      if (first >= p.chains) return;
      const int64_t last = std::min(first + kChainsPerTask, p.chains);
      for (int64_t chain = first; chain < last; ++chain) {
        if (p.uniforms_f64) {
          run_chain<double>(p, chain, recycled);
        } else {
          run_chain<float>(p, chain, recycled);
        }
      }
    }
  });
}

}  // namespace jsarag
