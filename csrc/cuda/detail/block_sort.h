// Sorts distinct keys in place with one block: a bitonic network, any number of keys.
#pragma once

#include <cstdint>

#include "cuda/detail/simt.h"

namespace jsarag::cuda {

// Ascending. Every thread of the block takes part; keys are visible to all of them before, and
// sorted for all of them after. In the form whose merges begin by folding, every comparison puts
// the smaller key first, so keys beyond the end count as the largest and need not exist.
template <class Key>
__device__ inline void block_sort(Key* keys, int64_t count) {
  const int64_t thread = threadIdx.x, threads = blockDim.x;
  const auto order = [&](int64_t low, int64_t high) {
    if (high < count && keys[high] < keys[low]) {
      const Key key = keys[low];
      keys[low] = keys[high];
      keys[high] = key;
    }
  };
  for (int log_run = 1; (int64_t{1} << (log_run - 1)) < count; ++log_run) {
    const int64_t run = int64_t{1} << log_run;
    const int64_t pairs = ((count + run - 1) >> log_run) << (log_run - 1);
    for (int64_t i = thread; i < pairs; i += threads) {
      const int64_t start = (i >> (log_run - 1)) << log_run, at = i & (run / 2 - 1);
      order(start + at, start + run - 1 - at);
    }
    __syncthreads();
    for (int log_half = log_run - 2; log_half >= 0; --log_half) {
      for (int64_t i = thread; i < pairs; i += threads) {
        const int64_t low =
            ((i >> log_half) << (log_half + 1)) + (i & ((int64_t{1} << log_half) - 1));
        order(low, low + (int64_t{1} << log_half));
      }
      __syncthreads();
    }
  }
}

}  // namespace jsarag::cuda
