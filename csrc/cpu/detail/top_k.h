// The k best of a stream of scores: a threshold, a buffer of survivors, and an exact selection when
// the buffer is full.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "cpu/detail/buffer.h"
#include "cpu/detail/scoring.h"

namespace jsarag::cpu {

struct Hit {
  float score;
  int32_t id;
};

// Score descending, then id ascending: a total order, so the k best are unique whatever the order
// of arrival.
inline bool better(const Hit& a, const Hit& b) {
  return a.score > b.score || (a.score == b.score && a.id < b.id);
}

// One worker's survivors for a group of queries.
class TopK {
 public:
  TopK(int64_t queries, int64_t k)
      : k_(k),
        capacity_(capacity(k)),
        hits_(queries * capacity_),
        count_(queries, 0),
        threshold_(queries, kMinusInfinity) {}

  // Room for k kept and a panel's worth of new hits at least.
  static int64_t capacity(int64_t k) { return k + std::max(k, kPanelRows); }

  // Scores strictly above may belong to the k best: ids come ascending, so an equal score that
  // comes later loses.
  float threshold(int64_t query) const { return threshold_[query]; }

  void add(int64_t query, const float* scores, int64_t first, const int32_t* positions, int found) {
    if (count_[query] + found > capacity_) shrink(query);
    Hit* to = hits_.data() + query * capacity_ + count_[query];
    for (int i = 0; i < found; ++i)
      to[i] = {scores[positions[i]], static_cast<int32_t>(first + positions[i])};
    count_[query] += found;
    // The first k arrive without a threshold: get one as soon as there is one.
    if (threshold_[query] == kMinusInfinity && count_[query] >= k_) shrink(query);
  }

  void append_to(int64_t query, std::vector<Hit>& all) const {
    const Hit* from = hits_.data() + query * capacity_;
    all.insert(all.end(), from, from + count_[query]);
  }

 private:
  void shrink(int64_t query) {
    Hit* hits = hits_.data() + query * capacity_;
    const int64_t count = count_[query];
    if (count < k_) return;
    std::nth_element(hits, hits + (k_ - 1), hits + count, better);
    count_[query] = k_;
    threshold_[query] = hits[k_ - 1].score;
  }

  int64_t k_, capacity_;
  Buffer<Hit> hits_;
  std::vector<int64_t> count_;
  std::vector<float> threshold_;
};

// Writes the k best of `all`, best first, and pads.
inline void write_best(std::vector<Hit>& all, int64_t k, int64_t* ids, float* scores) {
  const int64_t kept = std::min<int64_t>(k, static_cast<int64_t>(all.size()));
  if (kept < static_cast<int64_t>(all.size()))
    std::nth_element(all.begin(), all.begin() + kept, all.end(), better);
  std::sort(all.begin(), all.begin() + kept, better);
  for (int64_t i = 0; i < k; ++i) {
    ids[i] = i < kept ? all[i].id : -1;
    scores[i] = i < kept ? all[i].score : kMinusInfinity;
  }
}

}  // namespace jsarag::cpu
