// scan and log_partition with emulated AMX tiles against AVX-512, on shapes on and off every block
// size, and each query by itself. Prints what differs; no output means that they agree.
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <random>
#include <vector>

#include "cpu/detail/cpuid.h"
#include "jsarag/log_partition.h"
#include "jsarag/scan.h"

namespace jsarag::cpu {

static Isa chosen = Isa::avx512bf16;
Isa best_isa() { return chosen; }

}  // namespace jsarag::cpu

namespace {

using namespace jsarag;

constexpr int64_t kBest = 7;
constexpr float kFactor = 0.3f;

struct Shape {
  int64_t queries, passages, width;
};

struct Problem {
  Shape shape;
  std::vector<float> queries, exact;
  std::vector<uint16_t> rounded;
  std::vector<float> grad;

  explicit Problem(const Shape& s) : shape(s) {
    std::mt19937 bits(1);
    std::normal_distribution<float> normal;
    for (int64_t i = 0; i < s.queries * s.width; ++i) queries.push_back(normal(bits));
    for (int64_t i = 0; i < s.queries; ++i) grad.push_back(normal(bits));
    for (int64_t i = 0; i < s.passages * s.width; ++i) {
      const float value = normal(bits);
      uint32_t word;
      std::memcpy(&word, &value, 4);
      exact.push_back(value);
      rounded.push_back(static_cast<uint16_t>((word + 0x7fffu + (word >> 16 & 1u)) >> 16));
    }
  }

  PassagesView view(bool f32) const {
    if (f32)
      return {exact.data(), ScalarType::f32, 4 * shape.width, nullptr, shape.passages, shape.width};
    return {rounded.data(), ScalarType::bf16, 2 * shape.width,
            nullptr,        shape.passages,   shape.width};
  }
};

struct Results {
  std::vector<int64_t> ids;
  std::vector<float> scores, tile_lse, lse, gradient;
};

Results run(const Problem& p, cpu::Isa isa, bool f32, int64_t first, int64_t count, int threads) {
  cpu::chosen = isa;
  const int64_t width = p.shape.width, tiles = (p.shape.passages + kTile - 1) / kTile;
  const QueriesView queries{p.queries.data() + first * width, count, width};
  Results r;
  r.ids.resize(count * kBest);
  r.scores.resize(count * kBest);
  r.tile_lse.resize(count * tiles);
  r.lse.resize(count);
  r.gradient.resize(count * width);
  scan_cpu({queries,
            p.view(f32),
            {},
            nullptr,
            kBest,
            kFactor,
            threads,
            r.ids.data(),
            r.scores.data(),
            r.tile_lse.data()});
  log_partition_cpu({queries, p.view(f32), {}, kFactor, threads, r.lse.data()});
  log_partition_backward_cpu({queries,
                              p.view(f32),
                              {},
                              kFactor,
                              threads,
                              r.lse.data(),
                              p.grad.data() + first,
                              r.gradient.data()});
  return r;
}

void compare(const char* what, const Shape& s, const std::vector<float>& a,
             const std::vector<float>& b, float room) {
  for (size_t i = 0; i < a.size(); ++i) {
    const bool same = a[i] == b[i] || std::fabs(a[i] - b[i]) <= room * (1 + std::fabs(b[i]));
    if (same) continue;
    std::printf("%s [%zu] of %lld x %lld x %lld: %g, expected %g\n", what, i,
                static_cast<long long>(s.queries), static_cast<long long>(s.passages),
                static_cast<long long>(s.width), a[i], b[i]);
    return;
  }
}

}  // namespace

int main() {
  const Shape shapes[] = {{1, 1, 1},    {3, 40, 31},   {16, 513, 32}, {17, 130, 33},
                          {32, 96, 64}, {33, 600, 70}, {50, 31, 129}, {70, 1030, 200}};
  for (const Shape& s : shapes) {
    const Problem p(s);
    for (const bool f32 : {false, true}) {
      const Results tiles = run(p, cpu::Isa::amx, f32, 0, s.queries, 2);
      const Results lanes = run(p, cpu::Isa::avx512bf16, f32, 0, s.queries, 1);
      const float room = f32 ? 0.0f : 1e-5f;
      compare("scores", s, tiles.scores, lanes.scores, room);
      compare("tile_lse", s, tiles.tile_lse, lanes.tile_lse, room);
      compare("lse", s, tiles.lse, lanes.lse, room);
      compare("gradient", s, tiles.gradient, lanes.gradient, room);
      for (int64_t q = 0; q < s.queries; q += 5) {
        const Results alone = run(p, cpu::Isa::amx, f32, q, 1, 1);
        const std::vector<float> own(tiles.scores.begin() + q * kBest,
                                     tiles.scores.begin() + (q + 1) * kBest);
        compare("one query alone", s, alone.scores, own, 0.0f);
      }
    }
  }
  return 0;
}
