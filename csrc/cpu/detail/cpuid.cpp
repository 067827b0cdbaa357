#include "cpu/detail/cpuid.h"

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "jsarag/device_info.h"

#if JSARAG_X86
#include <cpuid.h>
#endif
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace jsarag {
namespace cpu {
namespace {

struct Features {
  bool avx2 = false, avx512 = false, avx512bf16 = false, amx = false;
};

#if JSARAG_X86
// AMX state must be asked for once per process; a kernel that refuses leaves the tiles unusable.
bool request_amx() {
#if defined(__linux__) && defined(SYS_arch_prctl)
  constexpr long kRequestPermission = 0x1023;
  constexpr unsigned long kTileData = 18;
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return false;
#endif
}

Features detect() {
  Features found;
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (!__get_cpuid(1, &a, &b, &c, &d)) return found;
  const bool osxsave = c & bit_OSXSAVE, fma = c & bit_FMA, f16c = c & bit_F16C;
  if (!osxsave) return found;
  uint32_t low = 0, high = 0;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  const uint64_t state = (static_cast<uint64_t>(high) << 32) | low;
  const bool ymm = (state & 0x6) == 0x6, zmm = (state & 0xe6) == 0xe6;
  const bool tiles = (state & 0x60000) == 0x60000;
  unsigned b7 = 0, c7 = 0, d7 = 0, a71 = 0, b71 = 0, c71 = 0, d71 = 0;
  if (!__get_cpuid_count(7, 0, &a, &b7, &c7, &d7)) return found;
  __get_cpuid_count(7, 1, &a71, &b71, &c71, &d71);
  const auto bit = [](unsigned word, int index) { return (word >> index & 1u) != 0; };
  found.avx2 = ymm && bit(b7, 5) && fma && f16c;
  found.avx512 = found.avx2 && zmm && bit(b7, 16) && bit(b7, 17) && bit(b7, 30) && bit(b7, 31) &&
                 bit(c7, 11);  // F, DQ, BW, VL, VNNI
  found.avx512bf16 = found.avx512 && bit(a71, 5);
  found.amx =
      found.avx512bf16 && tiles && bit(d7, 22) && bit(d7, 24) && bit(d7, 25) && request_amx();
  return found;
}
#else
Features detect() { return {}; }
#endif

constexpr const char* kNames[] = {"portable", "avx2", "avx512", "avx512bf16", "amx"};

Isa detect_best() {
  const Features found = detect();
  int best = found.amx ? 4 : found.avx512bf16 ? 3 : found.avx512 ? 2 : found.avx2 ? 1 : 0;
  if (const char* wanted = std::getenv("JSARAG_CPU_ISA")) {
    for (int i = 0; i < 5; ++i)
      if (std::strcmp(wanted, kNames[i]) == 0) best = std::min(best, i);
  }
  return static_cast<Isa>(best);
}

}  // namespace

Isa best_isa() {
  static const Isa best = detect_best();
  return best;
}

}  // namespace cpu

std::vector<std::string> cpu_features() {
  std::vector<std::string> names;
  for (int i = 0; i <= static_cast<int>(cpu::best_isa()); ++i) names.emplace_back(cpu::kNames[i]);
  return names;
}

#if !JSARAG_WITH_CUDA
bool cuda_built() { return false; }
std::vector<std::string> cuda_architectures() { return {}; }
std::string cuda_device_name() { return ""; }
#endif

}  // namespace jsarag
