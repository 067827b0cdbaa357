// A hit is one 64-bit key: the score's bits, mapped so that they order like the score, above the
// complement of the id. A larger key is a better hit (score descending, then id ascending), no two
// hits of a query are equal, and so the k best are one set whatever the order of arrival.
#pragma once

#include <cstdint>

#include "cuda/detail/simt.h"

namespace jsarag::cuda {

using Key = unsigned long long;  // what CUDA's atomics take

// Just below every key of a score above -inf: nothing that is not to be returned passes it.
constexpr Key kNoThreshold = 0x007fffffffffffffull;

__device__ inline uint32_t float_bits(float x) {
  uint32_t bits;
  memcpy(&bits, &x, sizeof bits);
  return bits;
}

// The key of a score that is not NaN; -0 and 0 are equal scores.
__device__ inline Key hit_key(float score, int64_t id) {
  const uint32_t bits = float_bits(score + 0.0f);
  const uint32_t ordered = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
  return static_cast<Key>(ordered) << 32 | (0xffffffffu - static_cast<uint32_t>(id));
}
__device__ inline float key_score(Key key) {
  const auto ordered = static_cast<uint32_t>(key >> 32);
  return __uint_as_float(ordered & 0x80000000u ? ordered & 0x7fffffffu : ~ordered);
}
__device__ inline int64_t key_id(Key key) {
  return static_cast<int64_t>(0xffffffffu - static_cast<uint32_t>(key));
}

}  // namespace jsarag::cuda
