#include "cpu/detail/scoring.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

namespace jsarag::cpu {
namespace {

constexpr int64_t kTileSide = 16;  // queries and words of a tile
static_assert(kStrands % kTileSide == 0);

bool in_tiles(const ScanKernels& kernels, Arithmetic arithmetic) {
  return arithmetic == Arithmetic::bf16_pairs && kernels.tile_queries > 0;
}

int64_t words_of(Arithmetic arithmetic, int64_t width) {
  const int64_t words = arithmetic == Arithmetic::f32 ? width : ceil_div(width, 2);
  return ceil_div(words, kStrands) * kStrands;
}

uint16_t to_bf16(float value) {
  uint32_t word;
  std::memcpy(&word, &value, sizeof word);
  if (std::isnan(value)) return static_cast<uint16_t>(word >> 16 | 0x40);
  // The multiplier takes denormals for zero.
  if ((word & 0x7f800000u) == 0) return static_cast<uint16_t>(word >> 16 & 0x8000u);
  return static_cast<uint16_t>((word + 0x7fffu + (word >> 16 & 1u)) >> 16);
}

float from_bf16(uint16_t half) {
  const uint32_t word = static_cast<uint32_t>(half) << 16;
  float value;
  std::memcpy(&value, &word, sizeof value);
  return value;
}

// The largest integer a query may hold so that a sum over the width fits int32.
int32_t integer_limit(int64_t width) {
  const int64_t fits = std::numeric_limits<int32_t>::max() / (128 * std::max<int64_t>(width, 1));
  return static_cast<int32_t>(std::clamp<int64_t>(fits, 1, 32767));
}

// The factor of an integer query; NaN where the query is not finite, so that its scores are.
float integer_scale(const float* query, int64_t width) {
  float largest = 0.0f;
  for (int64_t d = 0; d < width; ++d) {
    if (!std::isfinite(query[d])) return std::numeric_limits<float>::quiet_NaN();
    largest = std::max(largest, std::fabs(query[d]));
  }
  return largest / static_cast<float>(integer_limit(width));
}

int16_t to_integer(float value, float scale, int32_t limit) {
  if (!(scale > 0.0f)) return 0;
  const double x = std::nearbyint(static_cast<double>(value) / scale);
  return static_cast<int16_t>(std::clamp<double>(x, -limit, limit));
}

}  // namespace

PackedQueries::PackedQueries(const ScanKernels& kernels, const QueriesView& queries,
                             ScalarType type, const int32_t* pick, int64_t count)
    : arithmetic_(kernels.arithmetic(type)),
      tiled_(in_tiles(kernels, arithmetic_)),
      words_(words_of(arithmetic_, queries.width)) {
  const int64_t width = queries.width;
  const int64_t blocks = ceil_div(count, tiled_ ? kernels.tile_queries : kernels.max_block);
  int64_t rows_stored = 0;
  first_.push_back(0);
  for (int64_t b = 0; b < blocks; ++b) {
    first_.push_back(count * (b + 1) / blocks);
    offset_.push_back(rows_stored * words_);
    rows_stored += tiled_ ? ceil_div(size(b), kTileSide) * kTileSide : size(b);
  }
  data_ = Buffer<uint32_t>(rows_stored * words_);
  std::fill_n(data_.data(), rows_stored * words_, 0u);
  const int64_t strand = words_ / kStrands;
  if (!tiled_ && blocks == 1 && count <= kernels.max_few) {
    few_ = Buffer<uint32_t>(count * words_);
    std::fill_n(few_.data(), count * words_, 0u);
  }
  if (arithmetic_ == Arithmetic::i16_pairs) scale_.resize(count);
  const int32_t limit = integer_limit(width);
  for (int64_t b = 0; b < blocks; ++b) {
    for (int64_t r = 0; r < size(b); ++r) {
      const int64_t index = first_[b] + r;
      const float* query = queries.data + (pick ? pick[index] : index) * width;
      uint32_t* out = data_.data() + offset_[b];
      const auto put = [&](int64_t word, uint32_t value) {
        if (few_.data() != nullptr) few_.data()[r * words_ + word] = value;
        const int64_t w = word % kStrands * strand + word / kStrands;
        if (tiled_) {
          out[(r / kTileSide) * kTileSide * words_ + (w / kTileSide) * kTileSide * kTileSide +
              (r % kTileSide) * kTileSide + w % kTileSide] = value;
        } else {
          out[w * size(b) + r] = value;
        }
      };
      if (arithmetic_ == Arithmetic::f32) {
        for (int64_t d = 0; d < width; ++d) {
          uint32_t value;
          std::memcpy(&value, query + d, sizeof value);
          put(d, value);
        }
        continue;
      }
      const float scale = arithmetic_ == Arithmetic::i16_pairs ? integer_scale(query, width) : 0.0f;
      const auto half = [&](int64_t d) -> uint32_t {
        if (d >= width) return 0;
        return arithmetic_ == Arithmetic::bf16_pairs
                   ? to_bf16(query[d])
                   : static_cast<uint16_t>(to_integer(query[d], scale, limit));
      };
      for (int64_t w = 0; 2 * w < width; ++w) put(w, half(2 * w) | half(2 * w + 1) << 16);
      if (!scale_.empty()) scale_[index] = scale;
    }
  }
}

QueryRounding query_rounding(Arithmetic arithmetic, const float* query, int64_t width) {
  const float scale = arithmetic == Arithmetic::i16_pairs ? integer_scale(query, width) : 0.0f;
  const int32_t limit = integer_limit(width);
  double norm = 0.0, rounded = 0.0, error = 0.0;
  bool finite = true;
  for (int64_t d = 0; d < width; ++d) {
    const double exact = query[d];
    const double near = arithmetic == Arithmetic::bf16_pairs ? from_bf16(to_bf16(query[d]))
                        : arithmetic == Arithmetic::i16_pairs
                            ? static_cast<double>(to_integer(query[d], scale, limit)) * scale
                            : exact;
    finite = finite && std::isfinite(exact) && std::isfinite(near);
    norm += exact * exact;
    rounded += near * near;
    error += (exact - near) * (exact - near);
  }
  return {std::sqrt(norm), std::sqrt(rounded), std::sqrt(error), finite};
}

double row_value(ScalarType type, const void* row, int64_t d, bool flush) {
  uint16_t half;
  switch (type) {
    case ScalarType::f32:
      return static_cast<const float*>(row)[d];
    case ScalarType::i8:
      return static_cast<const int8_t*>(row)[d];
    case ScalarType::bf16: {
      std::memcpy(&half, static_cast<const char*>(row) + 2 * d, sizeof half);
      const float value = from_bf16(half);
      return flush && std::fabs(value) < std::numeric_limits<float>::min() ? 0.0 : value;
    }
    case ScalarType::f16: {
      std::memcpy(&half, static_cast<const char*>(row) + 2 * d, sizeof half);
      const int exponent = half >> 10 & 31, fraction = half & 1023;
      const double sign = half & 0x8000 ? -1.0 : 1.0;
      if (exponent == 31)
        return fraction ? std::numeric_limits<double>::quiet_NaN()
                        : sign * std::numeric_limits<double>::infinity();
      return sign *
             (exponent ? std::ldexp(1024 + fraction, exponent - 25) : std::ldexp(fraction, -24));
    }
  }
  return 0.0;
}

PanelScorer::PanelScorer(const ScanKernels& kernels, const PassagesView& passages,
                         Arithmetic arithmetic)
    : kernels_(kernels),
      passages_(passages),
      arithmetic_(arithmetic),
      words_(words_of(arithmetic, passages.width)),
      panel_rows_(kPanelRows) {
  constexpr int64_t kPanelBytes = 640 << 10;
  while (panel_rows_ > kMaxSlice && panel_rows_ * words_ * 4 > kPanelBytes) panel_rows_ /= 2;
  scores_ = Buffer<float>(kMaxBlock * kPanelRows);
  row_scale_ = Buffer<float>(kPanelRows);
}

void PanelScorer::load(int64_t first, int64_t count) {
  const char* rows = static_cast<const char*>(passages_.data) + first * passages_.row_bytes;
  source_ = {rows, passages_.row_bytes, count, passages_.width, passages_.type};
  packed_ = false;
  scaled_ = passages_.scales != nullptr;
  if (scaled_) {
    for (int64_t i = 0; i < count; i += 16)
      __builtin_prefetch(passages_.scales + first + count + i);
    std::memcpy(row_scale_.data(), passages_.scales + first, count * sizeof(float));
    std::fill(row_scale_.data() + count, row_scale_.data() + kPanelRows, 0.0f);
  }
}

void PanelScorer::load_rows(const void* rows, int64_t row_bytes, int64_t count) {
  source_ = {static_cast<const char*>(rows), row_bytes, count, passages_.width, passages_.type};
  packed_ = false;
  scaled_ = false;
}

float* PanelScorer::score(const PackedQueries& queries, int64_t block) {
  ScoreArguments arguments{panel_.data(),        words_,
                           source_.count,        queries.block(block),
                           queries.few(),        queries.size(block),
                           queries.scale(block), scaled_ ? row_scale_.data() : nullptr,
                           scores_.data()};
  const bool few = queries.few() != nullptr && kernels_.score_few(arithmetic_, source_, arguments);
  if (!few) {
    // Made at the first need: fresh pages cost more than a short scan.
    if (panel_.data() == nullptr) panel_ = Buffer<uint32_t>(panel_rows_ * words_);
    arguments.panel = panel_.data();
    if (!packed_) kernels_.pack_panel(arithmetic_, source_, words_, panel_.data());
    packed_ = true;
    kernels_.score(arithmetic_, arguments);
  }
  return scores_.data();
}

Excluded::Excluded(const ExcludeView& view, int64_t queries, int64_t passages) {
  if (view.ids == nullptr || view.per_query == 0) return;
  for (int64_t q = 0; q < queries; ++q) {
    begin_.push_back(static_cast<int64_t>(ids_.size()));
    for (int64_t e = 0; e < view.per_query; ++e) {
      const int64_t id = view.ids[q * view.per_query + e];
      if (id >= 0 && id < passages) ids_.push_back(id);
    }
    std::sort(ids_.begin() + begin_.back(), ids_.end());
  }
  begin_.push_back(static_cast<int64_t>(ids_.size()));
}

void Excluded::mask(int64_t query, int64_t first, int64_t count, float* scores) const {
  if (ids_.empty()) return;
  const auto end = ids_.begin() + begin_[query + 1];
  auto it = std::lower_bound(ids_.begin() + begin_[query], end, first);
  for (; it != end && *it < first + count; ++it) scores[*it - first] = kMinusInfinity;
}

bool Excluded::contains(int64_t query, int64_t passage) const {
  if (ids_.empty()) return false;
  return std::binary_search(ids_.begin() + begin_[query], ids_.begin() + begin_[query + 1],
                            passage);
}

double finish_lse(const float* state, int lanes) {
  float peak = kMinusInfinity;
  bool nan = false;
  for (int l = 0; l < lanes; ++l) {
    peak = std::max(peak, state[l]);
    nan = nan || std::isnan(state[lanes + l]);
  }
  if (nan) return std::numeric_limits<double>::quiet_NaN();
  if (std::isinf(peak)) return peak;
  double sum = 0.0;
  for (int l = 0; l < lanes; ++l)
    sum += static_cast<double>(state[lanes + l]) * std::exp(static_cast<double>(state[l]) - peak);
  return peak + std::log(sum);
}

}  // namespace jsarag::cpu
