// AMX tile instructions in plain C++, for machines that have none: include it before a kernel's
// source (-include) and its tile intrinsics run here. Every tile's shape comes from the
// configuration that the kernel loaded, and using a tile without one aborts.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace emulated {

struct State {
  unsigned char config[64];  // byte 0 palette, 16.. bytes per row (u16), 48.. rows
  unsigned char tile[8][16][64];
};

inline State& state() {
  static thread_local State current{};
  return current;
}

inline int rows(int tile) { return state().config[48 + tile]; }
inline int row_bytes(int tile) {
  return state().config[16 + 2 * tile] | state().config[17 + 2 * tile] << 8;
}

inline void require_config() {
  if (state().config[0] == 1) return;
  std::fprintf(stderr, "a tile instruction without a tile configuration\n");
  std::abort();
}

inline void load(int tile, const void* from, long stride) {
  require_config();
  std::memset(state().tile[tile], 0, sizeof state().tile[tile]);
  for (int r = 0; r < rows(tile); ++r) {
    std::memcpy(state().tile[tile][r], static_cast<const char*>(from) + r * stride,
                static_cast<size_t>(row_bytes(tile)));
  }
}

inline void store(int tile, void* to, long stride) {
  require_config();
  for (int r = 0; r < rows(tile); ++r) {
    std::memcpy(static_cast<char*>(to) + r * stride, state().tile[tile][r],
                static_cast<size_t>(row_bytes(tile)));
  }
}

inline void zero(int tile) {
  require_config();
  std::memset(state().tile[tile], 0, sizeof state().tile[tile]);
}

inline float widen(uint16_t bits) {
  const uint32_t wide = static_cast<uint32_t>(bits) << 16;
  float value;
  std::memcpy(&value, &wide, 4);
  return value;
}

// sum[m][n] += left[m][pair k] . right[k][pair n]
inline void multiply_bf16(int sum, int left, int right) {
  require_config();
  for (int m = 0; m < rows(sum); ++m) {
    for (int n = 0; n < row_bytes(sum) / 4; ++n) {
      float total;
      std::memcpy(&total, &state().tile[sum][m][4 * n], 4);
      for (int k = 0; k < row_bytes(left) / 4; ++k) {
        uint16_t a[2], b[2];
        std::memcpy(a, &state().tile[left][m][4 * k], 4);
        std::memcpy(b, &state().tile[right][k][4 * n], 4);
        total += widen(a[0]) * widen(b[0]);
        total += widen(a[1]) * widen(b[1]);
      }
      std::memcpy(&state().tile[sum][m][4 * n], &total, 4);
    }
  }
}

inline void load_config(const void* from) {
  std::memcpy(state().config, from, 64);
  std::memset(state().tile, 0, sizeof state().tile);
}
inline void store_config(void* to) { std::memcpy(to, state().config, 64); }
inline void release() { std::memset(&state(), 0, sizeof(State)); }

}  // namespace emulated

#undef _tile_loadd
#undef _tile_stored
#undef _tile_zero
#undef _tile_dpbf16ps
#undef _tile_loadconfig
#undef _tile_storeconfig
#undef _tile_release
#define _tile_loadd(tile, from, stride) emulated::load(tile, from, stride)
#define _tile_stored(tile, to, stride) emulated::store(tile, to, stride)
#define _tile_zero(tile) emulated::zero(tile)
#define _tile_dpbf16ps(sum, left, right) emulated::multiply_bf16(sum, left, right)
#define _tile_loadconfig(from) emulated::load_config(from)
#define _tile_storeconfig(to) emulated::store_config(to)
#define _tile_release() emulated::release()
