// Which column of a categorical distribution holds a uniform: the inverse of its cumulative mass.
//
// Masses are cut into chunks; each chunk is summed in order, then the chunks' sums in order, all in
// f64. So many threads may sum while the cumulative mass stays one fixed sequence, and it ascends:
// with base[c + 1] = base[c] + sum(c), no base[c] + (partial sum of c) passes base[c + 1].
#pragma once

#include <cstdint>

#include "cuda/detail/simt.h"

namespace jsarag::cuda {

struct Pick {
  int64_t column;
  double rest;  // where the uniform lies inside the column's share, in [0, 1)
};

// Mass of one chunk: columns begin .. end, in order.
template <class Mass>
JSARAG_HOST_DEVICE inline double chunk_mass(int64_t begin, int64_t end, const Mass& mass) {
  double sum = 0.0;
  for (int64_t i = begin; i < end; ++i) sum += mass(i);
  return sum;
}

// base[0..chunks] from the chunks' sums, which lie in base[1..chunks].
JSARAG_HOST_DEVICE inline void add_up_chunks(double* base, int chunks) {
  base[0] = 0.0;
  for (int c = 0; c < chunks; ++c) base[c + 1] += base[c];
}

// The column whose share of the cumulative mass holds u in [0, 1); columns without mass are never
// picked. base[chunks] > 0. `mass` must give the very numbers base was summed from.
template <class Mass>
JSARAG_HOST_DEVICE inline Pick pick(const double* base, int chunks, int64_t chunk_columns,
                                    int64_t columns, const Mass& mass, double u) {
  constexpr double kBelowOne = 1.0 - 1.1102230246251565e-16;
  const double total = base[chunks], target = u * total;
  // Rounding may put the target on the total: then the last column with mass is meant, the first
  // to reach the total.
  int low = 0, high = chunks - 1;
  while (low < high) {
    const int middle = (low + high) / 2;
    const double end = base[middle + 1];
    if (end > target || end >= total)
      high = middle;
    else
      low = middle + 1;
  }
  int64_t column = low * chunk_columns;
  const int64_t last = column + chunk_columns < columns ? column + chunk_columns : columns;
  double sum = 0.0, before = base[low];
  for (; column < last; ++column) {
    sum += mass(column);
    const double after = base[low] + sum;
    if (after > target || after >= total) {
      const double rest = (target - before) / (after - before);
      return {column, rest > 0.0 ? (rest < kBelowOne ? rest : kBelowOne) : 0.0};
    }
    before = after;
  }
  // Only if `mass` broke its word; an index inside at least.
  return {last - 1, 0.0};
}

}  // namespace jsarag::cuda
