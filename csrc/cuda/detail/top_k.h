// The k best of many scores on the GPU: keys that order hits totally, lists that blocks fill, and
// the merge of a query's lists.
//
// Whoever scores passages gives each query a list per block (HitLists), appends what passes the
// query's threshold, cuts the list back to its k best when it grows (shrink_list), and lets
// merge_hits_kernel take the k best of all lists. A threshold is a key that k hits are known to
// reach: any block's k-th best will do, so blocks tell each other through HitLists::thresholds, and
// a late or missed message costs time, never a result.
#pragma once

#include <cstdint>

#include "cuda/detail/block_sort.h"
#include "cuda/detail/hit_key.h"
#include "cuda/detail/numbers.h"
#include "cuda/detail/simt.h"

namespace jsarag::cuda {

// Lists of `queries` queries, one per stream (a stream is a block's share of the passages).
struct HitLists {
  Key* keys;         // [queries, streams, capacity]
  int* counts;       // [queries, streams]
  Key* thresholds;   // [queries], kNoThreshold at first; k hits of the query reach it
  int64_t capacity;  // of a list
  int streams;

  JSARAG_HOST_DEVICE Key* list(int64_t query, int64_t stream) const {
    return keys + (query * streams + stream) * capacity;
  }
};

// Threads that select together: `all` threads, of which this is number `rank`; the first 32 are a
// warp. Barrier: their own.
struct WarpGroup {
  int rank;
  static constexpr int kAll = 32;
  __device__ void sync() const { __syncwarp(); }
};
template <int kThreads>
struct BlockGroup {
  int rank;
  static constexpr int kAll = kThreads;
  __device__ void sync() const { __syncthreads(); }
};

struct SelectSpace {
  int histogram[256];
  int bin, wanted, found;
};

// A bound that exactly k of the keys reach, by radix selection from the highest byte down. There
// are more than k keys, all distinct; each(f) calls f with this thread's keys.
template <class Group, class Each>
__device__ inline Key select_bound(const Group& group, const Each& each, int k,
                                   SelectSpace& space) {
  Key prefix = 0;
  int wanted = k;
  for (int shift = 56;; shift -= 8) {
    for (int i = group.rank; i < 256; i += Group::kAll) space.histogram[i] = 0;
    group.sync();
    each([&](Key key) {
      if (shift == 56 || key >> (shift + 8) == prefix)
        atomicAdd(&space.histogram[key >> shift & 255u], 1);
    });
    group.sync();
    if (group.rank < 32) {
      // Lane l owns bins 255 - 8 l downwards; who holds the wanted-th largest key finds its bin.
      int own = 0;
      for (int i = 0; i < 8; ++i) own += space.histogram[255 - 8 * group.rank - i];
      int above = own;
      for (int stride = 1; stride < 32; stride *= 2) {
        const int other = __shfl_up_sync(0xffffffffu, above, stride);
        if (group.rank >= stride) above += other;
      }
      above -= own;
      if (above < wanted && above + own >= wanted) {
        int bin = 255 - 8 * group.rank;
        for (; above + space.histogram[bin] < wanted; --bin) above += space.histogram[bin];
        space.bin = bin;
        space.wanted = wanted - above;
        space.found = space.histogram[bin];
      }
    }
    group.sync();
    prefix = prefix << 8 | static_cast<Key>(space.bin);
    wanted = space.wanted;
    const bool done = space.found == wanted;
    group.sync();
    // Keys are distinct: in the lowest byte a bin holds one.
    if (done || shift == 0) return prefix << shift;
  }
}

// Cuts a list of count > k keys back to its k best, in place, by one warp; their smallest key.
__device__ inline Key shrink_list(Key* list, int count, int k, SelectSpace& space) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const auto each = [&](auto f) {
    for (int i = lane; i < count; i += 32) f(list[i]);
  };
  const Key bound = select_bound(WarpGroup{lane}, each, k, space);
  Key smallest = ~0ull;
  int kept = 0;
  for (int base = 0; base < count; base += 32) {
    const Key key = base + lane < count ? list[base + lane] : 0;
    const bool keep = key >= bound;
    // Reads of this round come before its writes, which end at or before the place read.
    const uint32_t ballot = __ballot_sync(0xffffffffu, keep);
    if (keep) {
      list[kept + __popc(ballot & ((1u << lane) - 1u))] = key;
      smallest = key < smallest ? key : smallest;
    }
    kept += __popc(ballot);
    __syncwarp();
  }
  for (int half = 16; half > 0; half /= 2) {
    const Key other = __shfl_xor_sync(0xffffffffu, smallest, half);
    smallest = other < smallest ? other : smallest;
  }
  return smallest;
}

// Where a merge leaves its k best of each query: ids and scores, or the keys themselves, best
// first; padded with -1 and -inf, or with 0.
struct MergeOutput {
  int64_t* ids;   // [queries, k]
  float* scores;  // [queries, k]
  Key* keys;      // [queries, k]; null: ids and scores
};

__device__ inline void write_hit(const MergeOutput& out, int64_t at, Key key) {
  if (out.keys != nullptr) {
    out.keys[at] = key;
  } else {
    out.ids[at] = key != 0 ? key_id(key) : -1;
    out.scores[at] = key != 0 ? key_score(key) : -kInfinity;
  }
}

constexpr int kMergeThreads = 256;

// One block per query, k keys of dynamic shared memory. `wanted` null, or which queries to answer;
// the others' results stay.
__global__ void __launch_bounds__(kMergeThreads)
    merge_hits_kernel(HitLists lists, int k, const int* wanted, MergeOutput out) {
  __shared__ SelectSpace space;
  __shared__ int total, taken;
  const int thread = static_cast<int>(threadIdx.x), lane = thread % 32, warp = thread / 32;
  const int64_t query = blockIdx.x;
  if (wanted != nullptr && wanted[query] == 0) return;
  uint64_t* best = dynamic_shared<uint64_t>();
  const Key threshold = lists.thresholds[query];
  // Only keys that reach the best threshold of all blocks count.
  const auto each = [&](auto f) {
    for (int stream = warp; stream < lists.streams; stream += kMergeThreads / 32) {
      const Key* list = lists.list(query, stream);
      const int count = lists.counts[query * lists.streams + stream];
      for (int i = lane; i < count; i += 32) {
        const Key key = list[i];
        if (key >= threshold) f(key);
      }
    }
  };
  if (thread == 0) total = taken = 0;
  __syncthreads();
  int own = 0;
  each([&](Key) { ++own; });
  if (own > 0) atomicAdd(&total, own);
  __syncthreads();
  const Key bound = total > k ? select_bound(BlockGroup<kMergeThreads>{thread}, each, k, space) : 0;
  // Complements: block_sort puts the smallest first.
  each([&](Key key) {
    if (key >= bound) best[atomicAdd(&taken, 1)] = ~key;
  });
  __syncthreads();
  const int found = taken;
  block_sort(best, found);
  for (int i = thread; i < k; i += kMergeThreads)
    write_hit(out, query * k + i, i < found ? ~best[i] : 0);
}

}  // namespace jsarag::cuda
