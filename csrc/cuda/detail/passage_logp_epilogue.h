// What passage_logp does with a tile of hidden * weight^T once a main loop has made it: the logit
// rule, each row's partial log-sum-exp and target logit (forward), or the gradient on the products
// (backward). No CUTLASS here, so that every main loop shares it and it runs on the CPU in tests.
//
// A tile is `kTile` words wide and lies in registers. What a lane holds of it is a fragment: kRows
// rows by kColumns columns, kSharers neighbouring lanes holding the rest of the same rows, so that
// a row is complete within its sharers and needs no shared memory.
#pragma once

#include <cstdint>

#include "cuda/detail/numbers.h"
#include "cuda/detail/ptx.h"
#include "cuda/detail/simt.h"

namespace jsarag::cuda::passage_logp {

constexpr unsigned kFullWarp = 0xffffffffu;

struct alignas(16) FourWords {
  uint32_t word[4];
};
struct alignas(16) FourNumbers {
  float number[4];
};

// ---- what the epilogues read and write ----

struct LogitRule {
  const void* bias;  // [columns], of the first column; or null
  bool bf16_bias;
  float scale, softcap;  // softcap 0: none
};

// One row's columns of one tile: the sum is of exp(logit - maximum); an empty or all -inf tile is
// (-inf, 0). A NaN shows in the sum alone.
struct alignas(8) Partial {
  float maximum, sum;
};

struct ForwardOutput {
  LogitRule rule;
  const int64_t* targets;  // [rows]
  int rows, columns;       // T, V
  Partial* partials;       // [tiles, rows]
  float* target_logit;     // [rows]; written where the target is a word
};

struct BackwardOutput {
  LogitRule rule;
  const int64_t* targets;  // [rows]
  int64_t ignore_index;
  int64_t first_word;  // of the chunk: column 0 is this word
  int rows, columns;   // T, words of the chunk
  const double* lse;   // [rows]
  const float* grad;   // [rows] of the row's sequence; 0: the row has no gradient
  void* out;           // [rows, stride]; columns past `columns` up to `stride` become 0
  int stride;          // a multiple of 8
};

// ---- fragments ----

// What mma.sync m16n8k16 and wgmma m64nNk16 leave in a lane of the warp that owns 16 rows: rows
// lane / 4 and lane / 4 + 8, of every 8 columns the two from 2 * (lane % 4); registers in the order
// [8 columns][row][column]. kColumnTiles groups of 8 columns.
template <int kColumnTiles>
struct MmaFragment {
  static constexpr int kRows = 2, kColumns = 2 * kColumnTiles, kSharers = 4;
  static constexpr int kTile = 8 * kColumnTiles;
  float* registers;  // [kColumnTiles * 4]
  int first_row;     // of the warp's 16
  int lane;

  __device__ float& at(int row, int column) const {
    return registers[column / 2 * 4 + row * 2 + column % 2];
  }
  __device__ int row(int i) const { return first_row + lane / 4 + 8 * i; }
  // Column of the tile.
  __device__ int column(int j) const { return j / 2 * 8 + lane % 4 * 2 + j % 2; }
  __device__ bool leads() const { return lane % 4 == 0; }
};

// Eight by eight numbers of a 128 x 128 tile that 16 x 16 threads share: rows 8 * y and on, columns
// 4 * x to 4 * x + 3 of each half.
struct SquareFragment {
  static constexpr int kRows = 8, kColumns = 8, kSharers = 16;
  static constexpr int kTile = 128;
  float* registers;  // [8 * 8]
  int first_row;     // of the tile
  int x, y;

  __device__ float& at(int row, int column) const { return registers[row * 8 + column]; }
  __device__ int row(int i) const { return first_row + y * 8 + i; }
  __device__ int column(int j) const { return j / 4 * 64 + x * 4 + j % 4; }
  __device__ bool leads() const { return x == 0; }
};

// ---- exp ----

// For f32 inputs: the library's, within 1 ulp.
struct ExactExp {
  __device__ float operator()(float x) const { return expf(x); }
  static __device__ float tanh(float x) { return tanhf(x); }
};

// For bf16 inputs, x <= 0 up to rounding: 2^(x log2 e) by the hardware's ex2.approx, three
// instructions where expf takes about ten. Its budget: ex2 is within 2^-22, and rounding x log2 e
// moves the result by |x| 2^-24 of itself. A term's error counts by its share of the sum, and the
// softmax's mean of |x| is below log V, about 12: the lse moves by at most 2^-22 + 12 * 2^-24, one
// ulp of an lse between 8 and 16, which f32 logits carry already. An element of the gradient moves
// by at most 2^-17 of itself while it is above e^-100; bf16 then rounds it to 2^-9.
// tanh: a polynomial fitted below 0.5, within 1.5 * 2^-24 of itself, and (1 - t) / (1 + t) with t =
// exp(-2 |x|) above, within 2^-22. The library's, 128 times unrolled, does not fit the registers.
struct FastExp {
  __device__ float operator()(float x) const { return exp2_approximate(x * 1.44269504088896341f); }
  static __device__ float tanh(float x) {
    const float t = exp2_approximate(fabsf(x) * -2.88539008177792682f);
    const float large = copysignf(divide_approximate(1.0f - t, 1.0f + t), x);
    const float square = x * x;
    float small = fmaf(square, 1.799921878e-02f, -5.339105427e-02f);
    small = fmaf(square, small, 1.333051324e-01f);
    small = fmaf(square, small, -3.333331048e-01f);
    small = fmaf(x * square, small, x);
    return fabsf(x) < 0.5f ? small : large;
  }
};

// ---- the logit rule ----

__device__ inline float bias_at(const LogitRule& rule, int column) {
  if (rule.bf16_bias) return bf16_value(static_cast<const uint16_t*>(rule.bias)[column]);
  return static_cast<const float*>(rule.bias)[column];
}

// Scale and bias of a column's products, in place.
template <class Fragment>
__device__ inline void scale_products(const Fragment& tile, const LogitRule& rule, int first_column,
                                      int columns) {
  if (rule.bias == nullptr && rule.scale == 1.0f) return;
#pragma unroll
  for (int j = 0; j < Fragment::kColumns; ++j) {
    const int column = first_column + tile.column(j);
    const float bias = rule.bias != nullptr && column < columns ? bias_at(rule, column) : 0.0f;
#pragma unroll
    for (int i = 0; i < Fragment::kRows; ++i) tile.at(i, j) = (tile.at(i, j) + bias) * rule.scale;
  }
}

// ---- forward ----

// Products to logits, in place; columns past the last become -inf.
template <class Exp, class Fragment>
__device__ inline void to_logits(const Fragment& tile, const LogitRule& rule, int first_column,
                                 int columns) {
  scale_products(tile, rule, first_column, columns);
  if (rule.softcap > 0.0f) {
    const float inverse = 1.0f / rule.softcap;
#pragma unroll
    for (int j = 0; j < Fragment::kColumns; ++j) {
#pragma unroll
      for (int i = 0; i < Fragment::kRows; ++i) {
        tile.at(i, j) = rule.softcap * Exp::tanh(tile.at(i, j) * inverse);
      }
    }
  }
  if (first_column + Fragment::kTile > columns) {
#pragma unroll
    for (int j = 0; j < Fragment::kColumns; ++j) {
      if (first_column + tile.column(j) < columns) continue;
#pragma unroll
      for (int i = 0; i < Fragment::kRows; ++i) tile.at(i, j) = -kInfinity;
    }
  }
}

// A row's target as a column of this tile, -1 where it is another's.
template <class Fragment>
__device__ inline int target_in_tile(int64_t target, int first_column) {
  const int64_t column = target - first_column;
  return column >= 0 && column < Fragment::kTile ? static_cast<int>(column) : -1;
}

// The whole forward epilogue of one tile; every lane of the warp takes part.
template <class Exp, class Fragment>
__device__ inline void finish_tile(const Fragment& tile, const ForwardOutput& to, int tile_index) {
  const int first_column = tile_index * Fragment::kTile;
  // Main loops fill their grids up with tiles that have no column, and some that have no row.
  if (first_column >= to.columns) return;
  to_logits<Exp>(tile, to.rule, first_column, to.columns);
#pragma unroll
  for (int i = 0; i < Fragment::kRows; ++i) {
    // fmaxf passes over NaN, which then shows in the sum.
    float maximum = -kInfinity;
#pragma unroll
    for (int j = 0; j < Fragment::kColumns; ++j) maximum = fmaxf(maximum, tile.at(i, j));
#pragma unroll
    for (int step = 1; step < Fragment::kSharers; step *= 2) {
      maximum = fmaxf(maximum, __shfl_xor_sync(kFullWarp, maximum, step));
    }
    // Nothing but -inf here: exp must see -inf - 0, not -inf + inf.
    const float offset = maximum == -kInfinity ? 0.0f : maximum;
    float even = 0.0f, odd = 0.0f;
#pragma unroll
    for (int j = 0; j < Fragment::kColumns; j += 2) {
      even += Exp{}(tile.at(i, j) - offset);
      odd += Exp{}(tile.at(i, j + 1) - offset);
    }
    float sum = even + odd;
#pragma unroll
    for (int step = 1; step < Fragment::kSharers; step *= 2) {
      sum += __shfl_xor_sync(kFullWarp, sum, step);
    }
    const int row = tile.row(i);
    if (row >= to.rows) continue;
    if (tile.leads())
      to.partials[static_cast<int64_t>(tile_index) * to.rows + row] = {maximum, sum};
    // Registers cannot be indexed by a number known at run time, but few rows get here.
    const int64_t target = to.targets[row];
    const int wanted = target_in_tile<Fragment>(target, first_column);
    if (wanted < 0 || target >= to.columns) continue;
#pragma unroll
    for (int j = 0; j < Fragment::kColumns; ++j) {
      if (tile.column(j) == wanted) to.target_logit[row] = tile.at(i, j);
    }
  }
}

// ---- backward ----

// What a row brings to its gradient.
struct RowGrad {
  float lse;     // rounded to f32
  float outer;   // grad * scale; 0: the row has no gradient
  float factor;  // -outer, times what rounding the lse did to all of the row's probabilities alike
  int target;    // column of the tile, or -1
};

template <class Fragment>
__device__ inline RowGrad row_grad(const BackwardOutput& to, int row, int first_column) {
  RowGrad result{0.0f, 0.0f, 0.0f, -1};
  if (row >= to.rows) return result;
  const int64_t target = to.targets[row];
  if (target == to.ignore_index) return result;
  const double lse = to.lse[row];
  result.lse = static_cast<float>(lse);
  result.outer = to.grad[row] * to.rule.scale;
  result.factor = -result.outer * expf(static_cast<float>(result.lse - lse));
  result.target = target_in_tile<Fragment>(target - to.first_word, first_column);
  return result;
}

// Products to their gradient, in place: grad * scale * (1 - tanh^2) * (1[target] - softmax).
template <class Exp, class Fragment>
__device__ inline void to_gradient(const Fragment& tile, const BackwardOutput& to,
                                   int first_column) {
  scale_products(tile, to.rule, first_column, to.columns);
  const bool capped = to.rule.softcap > 0.0f;
  const float inverse = capped ? 1.0f / to.rule.softcap : 0.0f;
#pragma unroll
  for (int i = 0; i < Fragment::kRows; ++i) {
    const RowGrad row = row_grad<Fragment>(to, tile.row(i), first_column);
    if (capped) {
#pragma unroll
      for (int j = 0; j < Fragment::kColumns; ++j) {
        const float t = Exp::tanh(tile.at(i, j) * inverse);
        const float slope = 1.0f - t * t;
        float d = row.factor * slope * Exp{}(to.rule.softcap * t - row.lse);
        if (tile.column(j) == row.target) d += row.outer * slope;
        tile.at(i, j) = d;
      }
    } else {
#pragma unroll
      for (int j = 0; j < Fragment::kColumns; ++j) {
        float d = row.factor * Exp{}(tile.at(i, j) - row.lse);
        if (tile.column(j) == row.target) d += row.outer;
        tile.at(i, j) = d;
      }
    }
    // An ignored row may hold anything: 0 * NaN must not get through.
    if (row.outer == 0.0f) {
#pragma unroll
      for (int j = 0; j < Fragment::kColumns; ++j) tile.at(i, j) = 0.0f;
    }
  }
  if (first_column + Fragment::kTile > to.columns) {
#pragma unroll
    for (int j = 0; j < Fragment::kColumns; ++j) {
      if (first_column + tile.column(j) < to.columns) continue;
#pragma unroll
      for (int i = 0; i < Fragment::kRows; ++i) tile.at(i, j) = 0.0f;
    }
  }
}

// Four lanes each hold one word of each of four groups: value[g] of lane q belongs at place q of
// group g. Afterwards lane q holds group q, in order. All lanes of the warp take part.
__device__ inline void transpose_quad(uint32_t (&value)[4], int lane) {
#pragma unroll
  for (int step = 1; step < 4; step *= 2) {
    const bool high = (lane & step) != 0;
#pragma unroll
    for (int g = 0; g < 4; ++g) {
      if ((g & step) != 0) continue;
      const uint32_t kept = high ? value[g | step] : value[g];
      const uint32_t given = high ? value[g] : value[g | step];
      const uint32_t got = __shfl_xor_sync(kFullWarp, given, step);
      value[g] = high ? got : kept;
      value[g | step] = high ? kept : got;
    }
  }
}

// The whole backward epilogue of one tile of bf16 gradients. The four sharers of a row swap their
// pairs so that each stores 16 bytes, and 64 adjacent ones between them.
template <class Exp, int kColumnTiles>
__device__ inline void finish_tile(const MmaFragment<kColumnTiles>& tile, const BackwardOutput& to,
                                   int tile_index) {
  static_assert(kColumnTiles % 4 == 0, "four groups of 8 columns are swapped together");
  const int first_column = tile_index * tile.kTile;
  if (first_column >= to.columns) return;
  to_gradient<Exp>(tile, to, first_column);
  uint16_t* out = static_cast<uint16_t*>(to.out);
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int row = tile.row(i);
#pragma unroll
    for (int g = 0; g < kColumnTiles; g += 4) {
      uint32_t pairs[4];
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        pairs[k] = bf16_pair(tile.at(i, (g + k) * 2), tile.at(i, (g + k) * 2 + 1));
      }
      transpose_quad(pairs, tile.lane);
      const int column = first_column + (g + tile.lane % 4) * 8;
      if (row < to.rows && column < to.stride) {
        *reinterpret_cast<FourWords*>(out + static_cast<int64_t>(row) * to.stride + column) =
            FourWords{{pairs[0], pairs[1], pairs[2], pairs[3]}};
      }
    }
  }
}

// The same for f32 gradients.
template <class Exp>
__device__ inline void finish_tile(const SquareFragment& tile, const BackwardOutput& to,
                                   int tile_index) {
  const int first_column = tile_index * tile.kTile;
  if (first_column >= to.columns) return;
  to_gradient<Exp>(tile, to, first_column);
  float* out = static_cast<float*>(to.out);
#pragma unroll
  for (int i = 0; i < tile.kRows; ++i) {
    const int row = tile.row(i);
    if (row >= to.rows) continue;
#pragma unroll
    for (int j = 0; j < tile.kColumns; j += 4) {
      const int column = first_column + tile.column(j);
      if (column < to.stride) {
        *reinterpret_cast<FourNumbers*>(out + static_cast<int64_t>(row) * to.stride + column) =
            FourNumbers{{tile.at(i, j), tile.at(i, j + 1), tile.at(i, j + 2), tile.at(i, j + 3)}};
      }
    }
  }
}

}  // namespace jsarag::cuda::passage_logp
