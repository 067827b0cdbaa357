// The kernels of passage_logp over a vector type V; each instruction set's file defines its V and
// includes this. No std:: here: a template instantiated under wider instructions could be picked
// by the linker for everybody. Everything has internal linkage for the same reason.
//
// V: type F of kLanes f32; load, store, set1, zero, add, sub, mul, div, fma(a, b, c) = a * b + c,
// max(a, b) returning b where either is NaN, round, scale2(a, n) = a * 2^n (0 far below), abs,
// less(a, b, then, other), sum, highest, dot(acc, a, b): acc + a * b over units; with kSquare > 0,
// turn(rows, byte, out, stride): out[j * stride + i] = unit j of rows[i] + byte for i, j < kSquare.
#pragma once

#include <cstdint>
#include <cstring>

#include "cpu/detail/passage_logp_engine.h"

namespace jsarag::cpu {
namespace {

// ---- elements ----

inline float from_bf16(uint16_t bits) {
  const uint32_t wide = static_cast<uint32_t>(bits) << 16;
  float value;
  std::memcpy(&value, &wide, 4);
  return value;
}

// Round to nearest even; NaN stays NaN.
inline uint32_t to_bf16(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  const uint32_t quiet = (bits >> 16) | 0x40u;
  return (bits & 0x7fffffffu) > 0x7f800000u ? quiet : rounded;
}

inline float unit_of(uint32_t low, uint32_t high) {
  const uint32_t bits = low | high << 16;
  float unit;
  std::memcpy(&unit, &bits, 4);
  return unit;
}

inline int64_t row_of(const Source& source, int64_t i) { return source.rows ? source.rows[i] : i; }

inline const uint16_t* bf16_row(const Source& source, int64_t i) {
  return static_cast<const uint16_t*>(source.data) + row_of(source, i) * source.stride;
}

inline const float* f32_row(const Source& source, int64_t i) {
  return static_cast<const float*>(source.data) + row_of(source, i) * source.stride;
}

// ---- packing ----

// One column of a panel from unit `from` on: row `row` of the matrix, then zeros.
template <bool kPairs>
void pack_column(const Source& source, int64_t row, bool exists, int64_t from, int64_t width,
                 int64_t units, int panel, float* to) {
  int64_t u = from;
  if (exists && kPairs) {
    const uint16_t* values = bf16_row(source, row);
    for (; u < width / 2; ++u) std::memcpy(to + u * panel, values + 2 * u, 4);
    if (width % 2) to[u++ * panel] = unit_of(values[width - 1], 0);
  } else if (exists && source.bf16) {
    const uint16_t* values = bf16_row(source, row);
    for (; u < width; ++u) to[u * panel] = from_bf16(values[u]);
  } else if (exists) {
    const float* values = f32_row(source, row);
    for (; u < width; ++u) to[u * panel] = values[u];
  }
  for (; u < units; ++u) to[u * panel] = 0.0f;
}

// [units][panel]: the matrix's rows become columns.
template <class V, bool kPairs>
void pack_rows(const Source& source, int64_t first, int64_t n, int64_t width, int64_t units,
               int panel, float* out) {
  constexpr int64_t kSquare = V::kSquare;  // 0: this V turns no squares
  int64_t column = 0;
  if constexpr (kSquare > 0) {
    const bool copies = kPairs || !source.bf16;
    const int64_t turned = (kPairs ? width / 2 : width) / kSquare * kSquare;
    for (; copies && column + kSquare <= n; column += kSquare) {
      const char* rows[kSquare];
      for (int64_t i = 0; i < kSquare; ++i) {
        const int64_t row = first + column + i;
        rows[i] = kPairs ? reinterpret_cast<const char*>(bf16_row(source, row))
                         : reinterpret_cast<const char*>(f32_row(source, row));
      }
      for (int64_t u = 0; u < turned; u += kSquare) {
        V::turn(rows, u * 4, out + u * panel + column, panel);
      }
      for (int64_t i = 0; i < kSquare; ++i) {
        pack_column<kPairs>(source, first + column + i, true, turned, width, units, panel,
                            out + column + i);
      }
    }
  }
  for (; column < panel; ++column) {
    pack_column<kPairs>(source, first + column, column < n, 0, width, units, panel, out + column);
  }
}

// Unit u of the summed dimension `n_rows`, for one column: one value, or the pair of rows 2u, 2u+1.
template <bool kPairs>
inline float unit_of_rows(const Source& source, int64_t n_rows, int64_t u, int64_t column) {
  if (kPairs) {
    if (2 * u >= n_rows) return 0.0f;
    const uint16_t high = 2 * u + 1 < n_rows ? bf16_row(source, 2 * u + 1)[column] : 0;
    return unit_of(bf16_row(source, 2 * u)[column], high);
  }
  if (u >= n_rows) return 0.0f;
  return source.bf16 ? from_bf16(bf16_row(source, u)[column]) : f32_row(source, u)[column];
}

// [units][panel]: the matrix's columns stay columns.
template <bool kPairs>
void pack_columns(const Source& source, int64_t n_rows, int64_t units, int64_t first_column,
                  int64_t n, int panel, float* out) {
  for (int64_t u = 0; u < units; ++u) {
    float* to = out + u * panel;
    if (kPairs && 2 * u + 1 < n_rows) {
      const uint16_t* low = bf16_row(source, 2 * u) + first_column;
      const uint16_t* high = bf16_row(source, 2 * u + 1) + first_column;
      for (int64_t column = 0; column < n; ++column) {
        to[column] = unit_of(low[column], high[column]);
      }
    } else {
      for (int64_t column = 0; column < n; ++column) {
        to[column] = unit_of_rows<kPairs>(source, n_rows, u, first_column + column);
      }
    }
    for (int64_t column = n; column < panel; ++column) to[column] = 0.0f;
  }
}

// ---- products ----

// One register tile, kRows x (kVectors * lanes): c (+)= left * right, the left element of row i and
// unit u at i * kLeftRow + u * kLeftUnit. The units are summed on their own and then added to c:
// short sums keep f32 errors small.
template <class V, int kVectors, int64_t kLeftRow, int64_t kLeftUnit>
inline __attribute__((always_inline)) void tile(const float* left, const float* right,
                                                int64_t units, float* c, int64_t c_stride,
                                                bool accumulate) {
  using F = typename V::F;
  constexpr int kRows = V::kRows;
  F sum[kRows][kVectors];
#pragma GCC unroll 16
  for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 4
    for (int j = 0; j < kVectors; ++j) {
      sum[i][j] = V::zero();
    }
  }
  for (int64_t u = 0; u < units; ++u) {
    F b[kVectors];
#pragma GCC unroll 4
    for (int j = 0; j < kVectors; ++j) b[j] = V::load(right + j * V::kLanes);
#pragma GCC unroll 16
    for (int i = 0; i < kRows; ++i) {
      const F a = V::set1(left[i * kLeftRow]);
#pragma GCC unroll 4
      for (int j = 0; j < kVectors; ++j) sum[i][j] = V::dot(sum[i][j], a, b[j]);
    }
    left += kLeftUnit;
    right += kVectors * V::kLanes;
  }
#pragma GCC unroll 16
  for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 4
    for (int j = 0; j < kVectors; ++j) {
      float* to = c + i * c_stride + j * V::kLanes;
      V::store(to, accumulate ? V::add(V::load(to), sum[i][j]) : sum[i][j]);
    }
  }
}

// Tiles over panels and over blocks of units, which keep a right panel's block in the cache. Left
// panels lie units * kRows apart if packed, else kPanelStep.
template <class V, int64_t kLeftRow, int64_t kLeftUnit, bool kPacked, int64_t kPanelStep>
void product(const float* left, int64_t row_panels, const float* right, int64_t columns,
             int64_t units, float* c, int64_t c_stride, bool accumulate) {
  constexpr int64_t kBlock = V::kUnitBlock;
  constexpr int64_t kColumns = V::kVectors * V::kLanes;
  const int64_t panel_step = kPacked ? units * V::kRows : kPanelStep;
  for (int64_t first = 0; first < units || first == 0; first += kBlock) {
    const int64_t n = units - first < kBlock ? units - first : kBlock;
    const bool add = accumulate || first > 0;
    for (int64_t column = 0; column < columns; column += kColumns) {
      const int64_t rest = columns - column;
      const int64_t vectors = rest >= kColumns ? V::kVectors : (rest + V::kLanes - 1) / V::kLanes;
      const float* b = right + column * units + first * vectors * V::kLanes;
      for (int64_t panel = 0; panel < row_panels; ++panel) {
        const float* a = left + panel * panel_step + first * kLeftUnit;
        float* out = c + panel * V::kRows * c_stride + column;
        switch (vectors) {
          case 1:
            tile<V, 1, kLeftRow, kLeftUnit>(a, b, n, out, c_stride, add);
            break;
          case 2:
            tile<V, 2, kLeftRow, kLeftUnit>(a, b, n, out, c_stride, add);
            break;
          default:
            tile<V, 3, kLeftRow, kLeftUnit>(a, b, n, out, c_stride, add);
            break;
        }
      }
    }
  }
}

// ---- elementary functions ----

// exp for arguments up to about 80, within 2 ulp; 0 for -inf, NaN for NaN. x = n ln 2 + r,
// |r| <= ln 2 / 2, the polynomial of degree 6 of least relative error (3e-9). One constant stands
// for ln 2: its error times n is below an ulp wherever exp(x) is not negligible beside exp(0).
template <class V>
inline __attribute__((always_inline)) typename V::F exp(typename V::F x) {
  using F = typename V::F;
  x = V::max(V::set1(-200.0f), x);  // keeps NaN; 2^-288 is 0 in f32
  const F n = V::round(V::mul(x, V::set1(1.44269504088896341f)));
  const F r = V::fma(n, V::set1(-0.693147180559945309f), x);
  F p = V::set1(0.001381454011f);
  p = V::fma(p, r, V::set1(0.008368745136f));
  p = V::fma(p, r, V::set1(0.04166839079f));
  p = V::fma(p, r, V::set1(0.166665204f));
  p = V::fma(p, r, V::set1(0.4999999343f));
  p = V::fma(p, r, V::set1(1.0f));
  p = V::fma(p, r, V::set1(1.0f));
  return V::scale2(p, n);
}

// tanh: an odd polynomial where 1 - exp(-2|x|) would cancel, else (1 - e) / (1 + e).
template <class V>
inline __attribute__((always_inline)) typename V::F tanh(typename V::F x) {
  using F = typename V::F;
  const F size = V::abs(x);
  const F square = V::mul(x, x);
  F p = V::set1(-5.70498872745e-3f);
  p = V::fma(p, square, V::set1(2.06390887954e-2f));
  p = V::fma(p, square, V::set1(-5.37397155531e-2f));
  p = V::fma(p, square, V::set1(1.33314422036e-1f));
  p = V::fma(p, square, V::set1(-3.33332819422e-1f));
  const F small = V::fma(V::mul(p, square), x, x);
  const F e = exp<V>(V::mul(V::set1(-2.0f), size));
  const F large = V::div(V::sub(V::set1(1.0f), e), V::add(V::set1(1.0f), e));
  const F signed_large = V::less(x, V::zero(), V::sub(V::zero(), large), large);
  return V::less(size, V::set1(0.625f), small, signed_large);
}

// ---- passes over a block of logits ----

template <class V>
inline int64_t whole_vectors(int64_t columns) {
  return (columns + V::kLanes - 1) / V::kLanes * V::kLanes;
}

// Turns products into logits, in place; columns past the last become -inf.
template <class V>
void to_logits(float* row, int64_t columns, const LogitRule& rule) {
  const int64_t end = whole_vectors<V>(columns);
  if (rule.bias != nullptr || rule.scale != 1.0f || rule.softcap > 0.0f) {
    const typename V::F scale = V::set1(rule.scale), cap = V::set1(rule.softcap);
    const typename V::F inverse = V::set1(rule.softcap > 0.0f ? 1.0f / rule.softcap : 0.0f);
    for (int64_t v = 0; v < end; v += V::kLanes) {
      typename V::F z = V::load(row + v);
      if (rule.bias) z = V::add(z, V::load(rule.bias + v));
      z = V::mul(z, scale);
      if (rule.softcap > 0.0f) z = V::mul(cap, tanh<V>(V::mul(z, inverse)));
      V::store(row + v, z);
    }
  }
  for (int64_t v = columns; v < end; ++v) row[v] = -__builtin_inff();
}

template <class V>
void lse(const LseBlock& block) {
  using F = typename V::F;
  const int64_t end = whole_vectors<V>(block.columns);
  for (int64_t i = 0; i < block.rows; ++i) {
    float* row = block.products + i * kLogitsStride;
    to_logits<V>(row, block.columns, block.rule);
    const int64_t target = block.targets[i];
    if (target >= 0 && target < block.columns) block.target_logit[i] = row[target];

    F high = V::set1(-__builtin_inff());
    for (int64_t v = 0; v < end; v += V::kLanes) high = V::max(V::load(row + v), high);
    const float maximum = V::highest(high);
    // Nothing but -inf here: exp must see -inf - 0, not -inf + inf.
    const F offset = V::set1(maximum == -__builtin_inff() ? 0.0f : maximum);
    F first = V::zero(), second = V::zero();
    int64_t v = 0;
    for (; v + 2 * V::kLanes <= end; v += 2 * V::kLanes) {
      first = V::add(first, exp<V>(V::sub(V::load(row + v), offset)));
      second = V::add(second, exp<V>(V::sub(V::load(row + v + V::kLanes), offset)));
    }
    if (v < end) first = V::add(first, exp<V>(V::sub(V::load(row + v), offset)));
    block.maximum[i] = maximum;
    block.sum[i] = V::sum(V::add(first, second));
  }
}

// Gradient on one row of products: grad * scale * (1 - tanh^2) * (1[target] - softmax).
template <class V>
void grad_row(const GradBlock& block, int64_t i) {
  using F = typename V::F;
  float* row = block.products + i * kLogitsStride;
  const LogitRule& rule = block.rule;
  const int64_t end = whole_vectors<V>(block.columns);
  const bool capped = rule.softcap > 0.0f;
  const bool plain = rule.bias == nullptr && rule.scale == 1.0f && !capped;
  const float outer = block.grad[i] * rule.scale;
  const F lse = V::set1(block.lse[i]), factor = V::set1(-outer * block.mass[i]);
  const F scale = V::set1(rule.scale), cap = V::set1(rule.softcap), one = V::set1(1.0f);
  const F inverse = V::set1(capped ? 1.0f / rule.softcap : 0.0f);

  const int64_t target = block.targets[i];
  const bool here = target >= 0 && target < block.columns;
  float at_target = outer;
  if (here && capped) {
    alignas(64) float slope[V::kLanes];
    F z = V::set1(row[target]);
    if (rule.bias) z = V::add(z, V::set1(rule.bias[target]));
    const F t = tanh<V>(V::mul(V::mul(z, scale), inverse));
    V::store(slope, V::sub(one, V::mul(t, t)));
    at_target *= slope[0];
  }
  if (plain) {
    for (int64_t v = 0; v < end; v += V::kLanes) {
      V::store(row + v, V::mul(factor, exp<V>(V::sub(V::load(row + v), lse))));
    }
  } else {
    for (int64_t v = 0; v < end; v += V::kLanes) {
      F z = V::load(row + v);
      if (rule.bias) z = V::add(z, V::load(rule.bias + v));
      z = V::mul(z, scale);
      F d = factor;
      if (capped) {
        const F t = tanh<V>(V::mul(z, inverse));
        z = V::mul(cap, t);
        d = V::mul(d, V::sub(one, V::mul(t, t)));
      }
      V::store(row + v, V::mul(d, exp<V>(V::sub(z, lse))));
    }
  }
  if (here) row[target] += at_target;
}

template <class V>
void grad(const GradBlock& block) {
  constexpr int64_t kColumns = V::kVectors * V::kLanes;
  const int64_t padded = (block.columns + kColumns - 1) / kColumns * kColumns;
  for (int64_t i = 0; i < kTokenBlock; ++i) {
    float* row = block.products + i * kLogitsStride;
    if (block.grad[i] == 0.0f) {  // padding
      for (int64_t v = 0; v < padded; ++v) row[v] = 0.0f;
      continue;
    }
    grad_row<V>(block, i);
    for (int64_t v = block.columns; v < padded; ++v) row[v] = 0.0f;
  }
  V::spread(block, padded);
}

// by_word of f32 units: a copy in panels. (by_token is the block itself.)
template <class V>
void spread_f32(const GradBlock& block, int64_t padded) {
  constexpr int64_t kColumns = V::kVectors * V::kLanes;
  for (int64_t column = 0; column < padded; column += kColumns) {
    float* to = block.by_word + column * block.token_units;
    for (int64_t i = 0; i < kTokenBlock; ++i) {
      std::memcpy(to + i * kColumns, block.products + i * kLogitsStride + column, kColumns * 4);
    }
  }
}

template <class V>
void sum_words_f32(const float* by_word, int64_t token_units, float* out) {
  typename V::F sum[V::kVectors];
  for (int j = 0; j < V::kVectors; ++j) sum[j] = V::zero();
  for (int64_t u = 0; u < token_units; ++u) {
    for (int j = 0; j < V::kVectors; ++j) {
      sum[j] = V::add(sum[j], V::load(by_word + (u * V::kVectors + j) * V::kLanes));
    }
  }
  for (int j = 0; j < V::kVectors; ++j) V::store(out + j * V::kLanes, sum[j]);
}

template <class V, bool kPairs>
constexpr Engine make_engine() {
  constexpr int64_t kColumns = V::kVectors * V::kLanes;
  constexpr int64_t kPanel = V::kRows * kLogitsStride;
  Engine engine{};
  engine.rows = V::kRows;
  engine.columns = static_cast<int>(kColumns);
  engine.lanes = V::kLanes;
  engine.unit_step = 1;
  engine.pairs = kPairs;
  engine.pack_tokens = pack_rows<V, kPairs>;
  engine.pack_words = pack_rows<V, kPairs>;
  engine.pack_word_rows = pack_columns<kPairs>;
  engine.pack_token_columns = pack_columns<kPairs>;
  engine.product = product<V, 1, V::kRows, true, 0>;
  engine.product_by_token = product<V, kLogitsStride, 1, false, kPanel>;
  engine.product_by_word = product<V, 1, kColumns, false, V::kRows>;
  engine.lse = lse<V>;
  engine.grad = grad<V>;
  engine.sum_words = V::sum_words;
  return engine;
}

}  // namespace
}  // namespace jsarag::cpu
