// The masses of one query's tiles, read by one block.
#pragma once

#include <cstdint>

#include "cuda/detail/numbers.h"
#include "cuda/detail/simt.h"

namespace jsarag::cuda {

// Threads of the blocks that read tile masses; sums are grouped by it, so it is part of the result.
constexpr int kMassThreads = 256;

// What one block learns of a row of log masses.
struct MassPeak {
  double peak;  // the largest; -inf where there is no mass or no tile
  bool nan;
};

// The row's largest entry; every thread of the block takes part and gets the answer. `shared` has
// kMassThreads numbers and may be used again after the next barrier.
__device__ inline MassPeak row_peak(const float* log_mass, int64_t count, double* shared,
                                    int* shared_nan) {
  const int thread = static_cast<int>(threadIdx.x);
  float peak = -kInfinity;
  bool nan = false;
  for (int64_t i = thread; i < count; i += kMassThreads) {
    const float value = log_mass[i];
    nan = nan || value != value;
    peak = value > peak ? value : peak;
  }
  if (thread == 0) *shared_nan = 0;
  shared[thread] = peak;
  __syncthreads();
  if (nan) atomicExch(shared_nan, 1);
  for (int half = kMassThreads / 2; half > 0; half /= 2) {
    if (thread < half && shared[thread + half] > shared[thread])
      shared[thread] = shared[thread + half];
    __syncthreads();
  }
  return {shared[0], *shared_nan != 0};
}

}  // namespace jsarag::cuda
