// passage_logp with AMX: products in 16 x 16 tiles of bf16 pairs, everything else as with AVX-512.
//
// A tile product wants its left rows with k running along them, its right operand as the other
// engines have it. So left panels are packed in tiles, [units / 16][16 rows][16 units], and the
// weight's gradient, whose words come as columns, is made transposed: (tokens' columns) x (words).
#include <immintrin.h>

#include "cpu/detail/passage_logp_avx512_bf16.h"

namespace jsarag::cpu {
namespace {

constexpr int64_t kTile = 16;
constexpr int64_t kTileSize = kTile * kTile;
constexpr int64_t kUnitBytes = 4;

struct Amx : Avx512Base {
  static constexpr int kRows = 16, kVectors = 2;
  static F dot(F sum, F a, F b) { return dot_pairs(sum, a, b); }
  static void spread(const GradBlock& block, int64_t padded) { spread_pairs<Amx>(block, padded); }
  static void sum_words(const float* by_word, int64_t token_units, float* out) {
    sum_words_pairs<Amx>(by_word, token_units, out);
  }
};

#include "cpu/detail/amx_tiles.h"

// Where tile (i, k step) of an operand lies: base + i * panel + k * step, rows `stride` apart; all
// in units.
struct Tiles {
  const float* base;
  int64_t panel, step, stride;
};

// c (+)= left * right for kLeft x kRight tiles, c's tiles 16 columns and 16 rows apart.
template <int kLeft, int kRight>
void tile_product(const Tiles& left, const Tiles& right, int64_t steps, float* c, int64_t c_stride,
                  bool accumulate) {
  const int64_t left_stride = left.stride * kUnitBytes, right_stride = right.stride * kUnitBytes;
  const int64_t stride = c_stride * kUnitBytes;
  float* below = c + kTile * c_stride;
  fence();
  if (accumulate) {
    _tile_loadd(0, c, stride);
    if constexpr (kRight > 1) _tile_loadd(1, c + kTile, stride);
    if constexpr (kLeft > 1) _tile_loadd(2, below, stride);
    if constexpr (kLeft > 1 && kRight > 1) _tile_loadd(3, below + kTile, stride);
  } else {
    _tile_zero(0);
    if constexpr (kRight > 1) _tile_zero(1);
    if constexpr (kLeft > 1) _tile_zero(2);
    if constexpr (kLeft > 1 && kRight > 1) _tile_zero(3);
  }
  for (int64_t k = 0; k < steps; ++k) {
    const float* a = left.base + k * left.step;
    const float* b = right.base + k * right.step;
    _tile_loadd(4, a, left_stride);
    _tile_loadd(6, b, right_stride);
    _tile_dpbf16ps(0, 4, 6);
    if constexpr (kRight > 1) {
      _tile_loadd(7, b + right.panel, right_stride);
      _tile_dpbf16ps(1, 4, 7);
    }
    if constexpr (kLeft > 1) {
      _tile_loadd(5, a + left.panel, left_stride);
      _tile_dpbf16ps(2, 5, 6);
      if constexpr (kRight > 1) _tile_dpbf16ps(3, 5, 7);
    }
  }
  _tile_stored(0, c, stride);
  if constexpr (kRight > 1) _tile_stored(1, c + kTile, stride);
  if constexpr (kLeft > 1) _tile_stored(2, below, stride);
  if constexpr (kLeft > 1 && kRight > 1) _tile_stored(3, below + kTile, stride);
  fence();
}

void tile_product(int64_t lefts, int64_t rights, const Tiles& left, const Tiles& right,
                  int64_t steps, float* c, int64_t c_stride, bool accumulate) {
  if (lefts > 1 && rights > 1) {
    tile_product<2, 2>(left, right, steps, c, c_stride, accumulate);
  } else if (lefts > 1) {
    tile_product<2, 1>(left, right, steps, c, c_stride, accumulate);
  } else if (rights > 1) {
    tile_product<1, 2>(left, right, steps, c, c_stride, accumulate);
  } else {
    tile_product<1, 1>(left, right, steps, c, c_stride, accumulate);
  }
}

int64_t tiles_at(int64_t first, int64_t end) { return end - first > kTile ? 2 : 1; }

// product and product_by_token: left panels of 16 rows, right panels of 32 columns.
void multiply(Tiles left, int64_t row_panels, const float* right, int64_t columns, int64_t units,
              float* c, int64_t c_stride, bool accumulate) {
  const TileState state;
  constexpr int64_t kColumns = 2 * kTile;
  const float* base = left.base;
  for (int64_t column = 0; column < columns; column += kColumns) {
    const int64_t rights = tiles_at(column, columns);
    const int64_t width = rights * kTile;
    const Tiles words{right + column * units, kTile, kTile * width, width};
    for (int64_t panel = 0; panel < row_panels; panel += 2) {
      left.base = base + panel * left.panel;
      tile_product(row_panels - panel, rights, left, words, units / kTile,
                   c + panel * kTile * c_stride + column, c_stride, accumulate);
    }
  }
}

void product_amx(const float* left, int64_t row_panels, const float* right, int64_t columns,
                 int64_t units, float* c, int64_t c_stride, bool accumulate) {
  multiply({left, kTile * units, kTileSize, kTile}, row_panels, right, columns, units, c, c_stride,
           accumulate);
}

void product_by_token_amx(const float* left, int64_t row_panels, const float* right,
                          int64_t columns, int64_t units, float* c, int64_t c_stride,
                          bool accumulate) {
  multiply({left, kTile * kLogitsStride, kTile, kLogitsStride}, row_panels, right, columns, units,
           c, c_stride, accumulate);
}

// c [32 words, columns] = words (columns of `left`) * tokens: made as tiles of (columns x words),
// turned on the way out.
void product_by_word_amx(const float* left, int64_t /*row_panels*/, const float* right,
                         int64_t columns, int64_t units, float* c, int64_t c_stride,
                         bool /*accumulate: never*/) {
  const TileState state;
  constexpr int64_t kWords = 2 * kTile;
  const Tiles words{left, kTile, kTile * kWords, kWords};
  alignas(64) float made[2 * kTile * kWords];
  for (int64_t column = 0; column < columns; column += 2 * kTile) {
    const int64_t lefts = tiles_at(column, columns);
    const Tiles tokens{right + column * units, kTile * units, kTileSize, kTile};
    tile_product(lefts, 2, tokens, words, units / kTile, made, kWords, false);
    for (int64_t i = 0; i < lefts; ++i) {
      const char* rows[kTile];
      for (int64_t r = 0; r < kTile; ++r) {
        rows[r] = reinterpret_cast<const char*>(made + (i * kTile + r) * kWords);
      }
      for (int64_t j = 0; j < 2; ++j) {
        Amx::turn(rows, j * kTile * kUnitBytes, c + j * kTile * c_stride + column + i * kTile,
                  c_stride);
      }
    }
  }
}

// A left panel in tiles: the matrix's rows stay rows.
void pack_tokens_amx(const Source& source, int64_t first, int64_t n, int64_t width, int64_t units,
                     int /*panel*/, float* out) {
  const int64_t bytes = width * 2;
  for (int64_t row = 0; row < kTile; ++row) {
    const char* from =
        row < n ? reinterpret_cast<const char*>(bf16_row(source, first + row)) : nullptr;
    for (int64_t step = 0; step < units / kTile; ++step) {
      float* to = out + step * kTileSize + row * kTile;
      const int64_t done = step * kTile * kUnitBytes;
      const int64_t left = row < n && bytes > done ? bytes - done : 0;
      const int64_t copied = left < 64 ? left : 64;
      std::memset(to, 0, 64);
      if (copied > 0) std::memcpy(to, from + done, static_cast<size_t>(copied));
    }
  }
}

// Left panels in tiles, 16 columns each: the matrix's columns become rows, pairs of its rows units.
void pack_token_columns_amx(const Source& source, int64_t n_rows, int64_t units,
                            int64_t first_column, int64_t n, int panel, float* out) {
  for (int64_t column = 0; column < panel; ++column) {
    float* to = out + column / kTile * kTile * units + column % kTile * kTile;
    for (int64_t u = 0; u < units; ++u) {
      to[u / kTile * kTileSize + u % kTile] =
          column < n ? unit_of_rows<true>(source, n_rows, u, first_column + column) : 0.0f;
    }
  }
}

constexpr Engine make_amx_engine() {
  Engine engine = make_engine<Amx, true>();
  engine.unit_step = kTile;
  engine.pack_tokens = pack_tokens_amx;
  engine.pack_token_columns = pack_token_columns_amx;
  engine.product = product_amx;
  engine.product_by_token = product_by_token_amx;
  engine.product_by_word = product_by_word_amx;
  return engine;
}

}  // namespace

const Engine kPassageLogpAmx = make_amx_engine();

}  // namespace jsarag::cpu
