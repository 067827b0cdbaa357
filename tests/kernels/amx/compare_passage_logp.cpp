// passage_logp with emulated AMX tiles against the AVX-512 engine, on shapes on and off every block
// size. Prints what differs; no output means that they agree.
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <random>
#include <vector>

#include "cpu/detail/cpuid.h"
#include "jsarag/passage_logp.h"

namespace jsarag::cpu {

static Isa chosen = Isa::avx512bf16;
Isa best_isa() { return chosen; }

}  // namespace jsarag::cpu

namespace {

using namespace jsarag;

uint16_t to_bf16(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  return static_cast<uint16_t>((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

float to_f32(uint16_t value) {
  const uint32_t bits = static_cast<uint32_t>(value) << 16;
  float wide;
  std::memcpy(&wide, &bits, 4);
  return wide;
}

struct Results {
  std::vector<float> logp;
  std::vector<uint16_t> grads[3];
};

struct Shape {
  int64_t tokens, width, vocabulary;
};

Results run(const Shape& shape, int variant, cpu::Isa isa, int threads) {
  cpu::chosen = isa;
  const auto [tokens, width, vocabulary] = shape;
  std::mt19937 bits(1);
  std::normal_distribution<float> normal;
  const auto fill = [&](int64_t n, float scale) {
    std::vector<uint16_t> values(static_cast<size_t>(n));
    for (auto& value : values) value = to_bf16(normal(bits) * scale);
    return values;
  };
  const auto hidden = fill(tokens * width, 1.0f), weight = fill(vocabulary * width, 0.2f);
  const auto bias = fill(vocabulary, 1.0f);
  std::vector<int64_t> targets(static_cast<size_t>(tokens));
  for (auto& target : targets)
    target = bits() % 5 ? static_cast<int64_t>(bits() % vocabulary) : -100;
  const std::vector<int64_t> cu_seqlens = {0, tokens / 3, tokens / 2, tokens};

  PassageLogpParams forward;
  forward.in.tokens = tokens;
  forward.in.width = forward.in.hidden_stride = forward.in.weight_stride = width;
  forward.in.vocabulary = vocabulary;
  forward.in.sequences = 3;
  forward.in.bf16 = true;
  forward.in.hidden = hidden.data();
  forward.in.weight = weight.data();
  forward.in.targets = targets.data();
  forward.in.cu_seqlens = cu_seqlens.data();
  if (variant > 0) forward.in.bias = bias.data();
  if (variant > 1) {
    forward.in.softcap = 3.0f;
    forward.in.logit_scale = 0.7f;
  }
  Results results;
  results.logp.resize(3);
  std::vector<int32_t> counted(3);
  std::vector<double> lse(static_cast<size_t>(tokens));
  forward.logp = results.logp.data();
  forward.counted = counted.data();
  forward.lse = lse.data();
  passage_logp_cpu(forward, threads);

  const float above[3] = {1.0f, 0.5f, -2.0f};
  results.grads[0].resize(hidden.size());
  results.grads[1].resize(weight.size());
  results.grads[2].resize(bias.size());
  PassageLogpBackwardParams backward;
  backward.in = forward.in;
  backward.lse = lse.data();
  backward.grad_logp = above;
  backward.grad_hidden = results.grads[0].data();
  backward.grad_weight = results.grads[1].data();
  backward.grad_bias = results.grads[2].data();
  passage_logp_backward_cpu(backward, threads);
  return results;
}

}  // namespace

int main() {
  const Shape shapes[] = {{1, 1, 1},        {7, 5, 11},      {64, 32, 480}, {65, 33, 481},
                          {130, 100, 1003}, {200, 384, 700}, {33, 800, 29}, {3, 1000, 70}};
  for (const Shape& shape : shapes) {
    for (int variant = 0; variant < 3; ++variant) {
      const Results amx = run(shape, variant, cpu::Isa::amx, 2);
      const Results avx = run(shape, variant, cpu::Isa::avx512bf16, 2);
      const Results again = run(shape, variant, cpu::Isa::amx, 3);
      const auto report = [&](const char* what, float one, float other) {
        std::printf("T=%ld H=%ld V=%ld variant %d: %s %g, expected %g\n",
                    static_cast<long>(shape.tokens), static_cast<long>(shape.width),
                    static_cast<long>(shape.vocabulary), variant, what, one, other);
      };
      for (size_t i = 0; i < 3; ++i) {
        const float one = amx.logp[i], other = avx.logp[i];
        if (!(std::fabs(one - other) <= 1e-6f * (1 + std::fabs(other)))) report("logp", one, other);
        if (one != again.logp[i]) report("logp on 3 threads", again.logp[i], one);
      }
      const char* names[] = {"grad hidden", "grad weight", "grad bias"};
      for (int g = 0; g < 3; ++g) {
        float largest = 0;
        for (const uint16_t value : avx.grads[g])
          largest = std::fmax(largest, std::fabs(to_f32(value)));
        for (size_t i = 0; i < avx.grads[g].size(); ++i) {
          const float one = to_f32(amx.grads[g][i]), other = to_f32(avx.grads[g][i]);
          // A last-bit difference in f32 may flip the rounding of single bf16 summands.
          const float allowed = std::fabs(other) / 128 + largest / 4096;
          if (!(std::fabs(one - other) <= allowed)) report(names[g], one, other);
          if (amx.grads[g][i] != again.grads[g][i])
            report(names[g], to_f32(again.grads[g][i]), one);
        }
      }
    }
  }
  return 0;
}
