// What scan, draw and log_partition share above the inner loops: queries packed once, passages
// scored panel by panel, and the passages a query leaves out.
#pragma once

#include <atomic>
#include <cstdint>
#include <vector>

#include "cpu/detail/buffer.h"
#include "cpu/detail/scan_kernels.h"
#include "jsarag/scan.h"

namespace jsarag::cpu {

constexpr float kMinusInfinity = -__builtin_inff();

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
inline int64_t tile_count(int64_t passages) { return ceil_div(passages, kTile); }

// Queries in the kernels' layout, cut into blocks of nearly equal size.
class PackedQueries {
 public:
  // Queries `pick[0..count)`, or 0..count-1 where pick is null, for passages of `type`.
  PackedQueries(const ScanKernels& kernels, const QueriesView& queries, ScalarType type,
                const int32_t* pick, int64_t count);
  PackedQueries(const PackedQueries&) = delete;
  PackedQueries& operator=(const PackedQueries&) = delete;

  Arithmetic arithmetic() const { return arithmetic_; }
  int64_t words() const { return words_; }
  int64_t blocks() const { return static_cast<int64_t>(first_.size()) - 1; }
  int64_t first(int64_t block) const { return first_[block]; }
  int size(int64_t block) const { return static_cast<int>(first_[block + 1] - first_[block]); }
  const uint32_t* block(int64_t block) const { return data_.data() + offset_[block]; }
  // The queries as they are, [count][words], where they are few enough for `score_few`, else null.
  const uint32_t* few() const { return few_.data(); }
  // Factors of the block's integer queries, or null.
  const float* scale(int64_t block) const {
    return scale_.empty() ? nullptr : scale_.data() + first_[block];
  }

 private:
  Arithmetic arithmetic_;
  bool tiled_;
  int64_t words_;
  std::vector<int64_t> first_, offset_;
  std::vector<float> scale_;
  Buffer<uint32_t> data_, few_;
};

// What rounding did to a query, for the bound of a certified scan.
struct QueryRounding {
  double norm;     // |q|
  double rounded;  // |q'|
  double error;    // |q - q'|
  bool finite;
};
QueryRounding query_rounding(Arithmetic arithmetic, const float* query, int64_t width);

// Number d of a row as the kernels see it, scales left out; `flush` for arithmetic that takes
// denormals for zero.
double row_value(ScalarType type, const void* row, int64_t d, bool flush);

// One thread's scratch for scoring panels of passages.
class PanelScorer {
 public:
  PanelScorer(const ScanKernels& kernels, const PassagesView& passages, Arithmetic arithmetic);

  // Rows of a panel: at most kPanelRows, fewer where rows are so wide that a panel would leave the
  // second-level cache; divides kTile.
  int64_t panel_rows() const { return panel_rows_; }

  // Turns to passages first .. first + count.
  void load(int64_t first, int64_t count);
  // Turns to gathered rows (each `row_bytes` behind the other) without scales.
  void load_rows(const void* rows, int64_t row_bytes, int64_t count);

  // Scores of one block of queries: [size][kPanelRows], valid until the next call.
  float* score(const PackedQueries& queries, int64_t block);

 private:
  const ScanKernels& kernels_;
  PassagesView passages_;
  Arithmetic arithmetic_;
  int64_t words_, panel_rows_;
  PanelSource source_{};
  bool packed_ = false, scaled_ = false;
  Buffer<uint32_t> panel_;
  Buffer<float> scores_, row_scale_;
};

// The valid exclusions of each query, ascending.
class Excluded {
 public:
  Excluded(const ExcludeView& view, int64_t queries, int64_t passages);
  bool empty() const { return ids_.empty(); }
  // Sets the scores of query's excluded passages among first .. first + count to -inf.
  void mask(int64_t query, int64_t first, int64_t count, float* scores) const;
  bool contains(int64_t query, int64_t passage) const;

 private:
  std::vector<int64_t> ids_, begin_;
};

// Work in ascending order, taken by whoever is free.
class Counter {
 public:
  explicit Counter(int64_t end) : end_(end) {}
  // The next number below end, or -1.
  int64_t next() {
    const int64_t i = next_.fetch_add(1, std::memory_order_relaxed);
    return i < end_ ? i : -1;
  }

 private:
  std::atomic<int64_t> next_{0};
  int64_t end_;
};

// log of sum of exp over a streaming state of `accumulate_lse`, summed in f64.
double finish_lse(const float* state, int lanes);

}  // namespace jsarag::cpu
