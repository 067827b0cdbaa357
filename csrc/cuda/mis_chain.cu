// mis_chain on CUDA: one warp per chain. Lane l holds step l of a stretch of 32 steps; what one
// step needs of another is only which proposal is held and its weight, so the warp walks the
// stretch with every lane knowing both, and each lane keeps what its own step gave: reads and
// writes are coalesced and the walk touches no memory.
#include <cmath>

#include "cuda/detail/launch.h"
#include "jsarag/mis_chain.h"

namespace jsarag {
namespace cuda {
namespace {

constexpr unsigned kWarps = 4;
constexpr unsigned kLanes = 32;
constexpr unsigned kAll = 0xffffffffu;

// A lane's share of the sums of the columns that are held across stretches would need a sum in
// memory; instead the held column's sum travels with the walk in f64 and is written when the chain
// moves on, in the order of steps as on the CPU.
template <typename Uniform>
__global__ void __launch_bounds__(kWarps* kLanes) mis_chain_kernel(MisChainParams p) {
  const int64_t chain = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / kLanes;
  if (chain >= p.chains) return;
  const int lane = static_cast<int>(threadIdx.x % kLanes);
  const int64_t steps = p.steps;
  const float* weight = p.log_weight + chain * steps;
  const Uniform* uniforms = static_cast<const Uniform*>(p.uniforms) + chain * steps;
  int32_t* state = p.state + chain * steps;
  bool* accepted = p.accepted + chain * steps;
  float* visits = p.visits + chain * (steps + 1);
  float* recycled = p.recycled + chain * (steps + 1);

  int64_t held = steps;  // the start's column
  double held_weight = p.start_log_weight ? static_cast<double>(p.start_log_weight[chain])
                                          : static_cast<double>(NAN);
  double held_recycled = 0.0;
  float held_visits = 0.0f;
  for (int64_t first = 0; first < steps; first += kLanes) {
    const int64_t mine = first + lane;
    const bool there = mine < steps;
    const double my_weight = there ? static_cast<double>(weight[mine]) : 0.0;
    const double my_log = there ? log(static_cast<double>(uniforms[mine])) : 0.0;
    int64_t my_state = 0;
    bool my_move = false;
    double my_recycled = 0.0;
    float my_visits = 0.0f;
    const int count = static_cast<int>(steps - first < kLanes ? steps - first : kLanes);
    for (int i = 0; i < count; ++i) {
      const int64_t step = first + i;
      const double proposed = __shfl_sync(kAll, my_weight, i);
      const double log_uniform = __shfl_sync(kAll, my_log, i);
      const bool free = (step == 0 && p.start_log_weight == nullptr) ||
                        (held_weight != held_weight && proposed == proposed);
      const double log_ratio = proposed - held_weight;
      double chance = 0.0;  // also where the ratio is NaN
      if (free || log_ratio >= 0.0) {
        chance = 1.0;
      } else if (log_ratio < 0.0) {
        chance = exp(log_ratio);
      }
      const bool move = free || log_uniform < log_ratio;
      held_recycled += 1.0 - chance;
      if (move) {
        // The column left is complete: no later step can return to it.
        if (held >= first && held < steps) {
          if (mine == held) {
            my_recycled = held_recycled;
            my_visits = held_visits;
          }
        } else if (lane == 0) {
          recycled[held] = static_cast<float>(held_recycled);
          visits[held] = held_visits;
        }
        held = step;
        held_weight = proposed;
        held_recycled = chance;
        held_visits = 0.0f;
      } else if (lane == i) {
        my_recycled = chance;
      }
      held_visits += 1.0f;
      if (lane == i) {
        my_state = held;
        my_move = move;
      }
    }
    if (there) {
      state[mine] = my_state == steps ? -1 : static_cast<int32_t>(my_state);
      accepted[mine] = my_move;
      // The column still held is written when it is left, or at the end.
      if (mine != held) {
        recycled[mine] = static_cast<float>(my_recycled);
        visits[mine] = my_visits;
      }
    }
  }
  if (lane == 0) {
    recycled[held] = static_cast<float>(held_recycled);
    visits[held] = held_visits;
  }
}

}  // namespace
}  // namespace cuda

void mis_chain_cuda(const MisChainParams& p, const CudaCall& call) {
  if (p.chains == 0) return;
  const cuda::DeviceGuard guard(call.device);
  const cuda::LaunchShape shape{static_cast<unsigned>((p.chains + cuda::kWarps - 1) / cuda::kWarps),
                                cuda::kWarps * cuda::kLanes, 0};
  if (p.uniforms_f64) {
    cuda::launch("mis_chain", cuda::mis_chain_kernel<double>, shape, call.stream, p);
  } else {
    cuda::launch("mis_chain", cuda::mis_chain_kernel<float>, shape, call.stream, p);
  }
}

}  // namespace jsarag
