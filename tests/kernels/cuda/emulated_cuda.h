// Enough of CUDA to run our kernels on the CPU: a block's threads are fibres, blocks run one after
// another. Fibres are switched only where threads wait for each other, in a shuffled order, so a
// missing barrier shows; dynamic shared memory and the targets of asynchronous copies hold rubbish
// until they are written. JSARAG_EMULATED_ORDER=<number> picks another order. Threads that wait for
// each other for ever are an error of the launch.
#pragma once

#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <random>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#define __device__
#define __host__
#define __global__
#define __launch_bounds__(...)
// Blocks run one after another: one copy serves them all.
#define __shared__ static

namespace emulated {

struct Dimension {
  unsigned x;
};

constexpr size_t kStackBytes = 128 * 1024;
constexpr int kPostBytes = 64;

// Meetings opened and threads ended so far: a pass over a block's threads that adds none is a
// deadlock.
inline uint64_t progress = 0;

inline unsigned first_order() {
  const char* number = std::getenv("JSARAG_EMULATED_ORDER");
  return number ? static_cast<unsigned>(std::strtoul(number, nullptr, 10)) : 20u;
}

// Threads that wait for each other: a block or a warp.
struct Meeting {
  unsigned alive = 0, arrived = 0, round = 0;

  void leave() {
    ++progress;
    --alive;
    if (alive > 0 && arrived == alive) open();
  }
  void open() {
    ++progress;
    arrived = 0;
    ++round;
  }
};

struct Warp {
  Meeting meeting;
  unsigned char post[32][kPostBytes];
};

struct Copy {
  void* to;
  unsigned char data[16];
};

struct Fibre {
  ucontext_t context;
  std::vector<char> stack;
  bool done = false;
  std::vector<Copy> open_copies;
  std::vector<std::vector<Copy>> groups;
};

struct Machine {
  Dimension thread{}, block{}, block_size{}, grid_size{};
  Meeting meeting;
  std::vector<Warp> warps;
  std::vector<Fibre> fibres;
  ucontext_t scheduler{};
  std::vector<char> shared;
  const std::function<void()>* kernel = nullptr;
  std::mt19937 order{first_order()};
};

inline Machine machine;
inline size_t shared_memory_limit = 232448;
// Whether kernels for compute capability 9.0 are chosen.
inline bool hopper = false;

inline Fibre& fibre() { return machine.fibres[machine.thread.x]; }
inline Warp& warp() { return machine.warps[machine.thread.x / 32]; }
inline unsigned lane() { return machine.thread.x % 32; }

inline void meet(Meeting& meeting) {
  const unsigned round = meeting.round;
  if (++meeting.arrived == meeting.alive) return meeting.open();
  while (meeting.round == round) {
    const Dimension me = machine.thread;
    swapcontext(&machine.fibres[me.x].context, &machine.scheduler);
  }
}

// What every lane posts, for all to read.
template <class T>
void post(const T& value) {
  static_assert(sizeof(T) <= kPostBytes);
  std::memcpy(warp().post[lane()], &value, sizeof value);
  meet(warp().meeting);
}
template <class T>
T posted(unsigned from) {
  T value;
  std::memcpy(&value, warp().post[from % 32], sizeof value);
  return value;
}
inline void posts_read() { meet(warp().meeting); }

inline void fibre_main() {
  (*machine.kernel)();
  Fibre& me = fibre();
  me.done = true;
  warp().meeting.leave();
  machine.meeting.leave();
  swapcontext(&me.context, &machine.scheduler);
}

inline void run_block(unsigned threads) {
  machine.meeting = {};
  machine.meeting.alive = threads;
  machine.warps.assign((threads + 31) / 32, Warp{});
  if (machine.fibres.size() < threads) machine.fibres.resize(threads);
  std::vector<unsigned> order(threads);
  for (unsigned t = 0; t < threads; ++t) {
    order[t] = t;
    ++machine.warps[t / 32].meeting.alive;
    Fibre& fibre = machine.fibres[t];
    fibre.stack.resize(kStackBytes);
    fibre.done = false;
    fibre.open_copies.clear();
    fibre.groups.clear();
    getcontext(&fibre.context);
    fibre.context.uc_stack.ss_sp = fibre.stack.data();
    fibre.context.uc_stack.ss_size = kStackBytes;
    fibre.context.uc_link = nullptr;
    makecontext(&fibre.context, fibre_main, 0);
  }
  while (machine.meeting.alive > 0) {
    const uint64_t before = progress;
    std::shuffle(order.begin(), order.end(), machine.order);
    for (const unsigned t : order) {
      if (machine.fibres[t].done) continue;
      machine.thread.x = t;
      swapcontext(&machine.scheduler, &machine.fibres[t].context);
    }
    if (progress == before)
      throw std::runtime_error("emulated launch: block " + std::to_string(machine.block.x) +
                               " is in deadlock: " + std::to_string(machine.meeting.arrived) +
                               " of " + std::to_string(machine.meeting.alive) +
                               " threads wait at __syncthreads, the others within their warps");
  }
}

inline void run(unsigned blocks, unsigned threads, size_t shared_bytes,
                const std::function<void()>& kernel) {
  if (blocks == 0 || threads == 0 || threads > 1024)
    throw std::runtime_error("emulated launch: no such grid");
  machine.kernel = &kernel;
  machine.block_size.x = threads;
  machine.grid_size.x = blocks;
  std::vector<unsigned> order(blocks);
  for (unsigned b = 0; b < blocks; ++b) order[b] = b;
  std::shuffle(order.begin(), order.end(), machine.order);
  for (const unsigned b : order) {
    machine.block.x = b;
    machine.shared.assign(shared_bytes + 1024, static_cast<char>(0xff));
    run_block(threads);
  }
}

inline void* dynamic_shared() {
  const auto at = reinterpret_cast<uintptr_t>(machine.shared.data());
  return machine.shared.data() + (1024 - at % 1024) % 1024;
}

inline float f16_value(uint16_t bits) {
  const int exponent = bits >> 10 & 31, fraction = bits & 1023;
  const float sign = bits & 0x8000 ? -1.0f : 1.0f;
  if (exponent == 31) return fraction ? std::nanf("") : sign * INFINITY;
  return sign * (exponent ? std::ldexp(1024.0f + static_cast<float>(fraction), exponent - 25)
                          : std::ldexp(static_cast<float>(fraction), -24));
}

inline void require_aligned(const void* pointer, size_t bytes) {
  if (reinterpret_cast<uintptr_t>(pointer) % bytes) std::abort();
}

// The bytes are read now and arrive when they are waited for.
inline void copy_16(void* to, const void* from) {
  require_aligned(to, 16);
  require_aligned(from, 16);
  Copy copy{to, {}};
  std::memcpy(copy.data, from, sizeof copy.data);
  fibre().open_copies.push_back(copy);
}
inline void commit_copies() {
  fibre().groups.push_back(std::move(fibre().open_copies));
  fibre().open_copies.clear();
}
inline void wait_copies(size_t pending) {
  auto& groups = fibre().groups;
  while (groups.size() > pending) {
    for (const Copy& copy : groups.front()) std::memcpy(copy.to, copy.data, sizeof copy.data);
    groups.erase(groups.begin());
  }
}

inline void load_matrices(uint32_t* to, const void* row, bool transposed) {
  require_aligned(row, 16);
  post(row);
  for (unsigned matrix = 0; matrix < 4; ++matrix) {
    to[matrix] = 0;
    for (unsigned i = 0; i < 2; ++i) {
      const unsigned r = transposed ? lane() % 4 * 2 + i : lane() / 4;
      const unsigned c = transposed ? lane() / 4 : lane() % 4 * 2 + i;
      const auto* numbers = static_cast<const uint16_t*>(posted<const void*>(8 * matrix + r));
      to[matrix] |= static_cast<uint32_t>(numbers[c]) << (16 * i);
    }
  }
  posts_read();
}

template <class Value>
void multiply_16x8x16(float* sum, const uint32_t* a, const uint32_t* b, Value value) {
  struct Fragments {
    uint32_t a[4], b[2];
  } mine;
  std::memcpy(mine.a, a, sizeof mine.a);
  std::memcpy(mine.b, b, sizeof mine.b);
  post(mine);
  const auto half = [&](uint32_t pair, unsigned i) {
    return value(static_cast<uint16_t>(pair >> (16 * i)));
  };
  for (unsigned i = 0; i < 4; ++i) {
    const unsigned row = lane() / 4 + i / 2 * 8, column = lane() % 4 * 2 + i % 2;
    double total = sum[i];
    for (unsigned k = 0; k < 16; ++k) {
      const auto left = posted<Fragments>(row % 8 * 4 + k % 8 / 2);
      const auto right = posted<Fragments>(column * 4 + k % 8 / 2);
      total += static_cast<double>(half(left.a[row / 8 + k / 8 * 2], k % 2)) *
               half(right.b[k / 8], k % 2);
    }
    sum[i] = static_cast<float>(total);
  }
  posts_read();
}

inline void multiply_16x8x32(int* sum, const uint32_t* a, const uint32_t* b) {
  struct Fragments {
    uint32_t a[4], b[2];
  } mine;
  std::memcpy(mine.a, a, sizeof mine.a);
  std::memcpy(mine.b, b, sizeof mine.b);
  post(mine);
  const auto byte = [](uint32_t four, unsigned i) {
    return static_cast<int>(static_cast<int8_t>(four >> (8 * i) & 0xffu));
  };
  for (unsigned i = 0; i < 4; ++i) {
    const unsigned row = lane() / 4 + i / 2 * 8, column = lane() % 4 * 2 + i % 2;
    for (unsigned k = 0; k < 32; ++k) {
      const auto left = posted<Fragments>(row % 8 * 4 + k % 16 / 4);
      const auto right = posted<Fragments>(column * 4 + k % 16 / 4);
      sum[i] += byte(left.a[row / 8 + k / 16 * 2], k % 4) * byte(right.b[k / 16], k % 4);
    }
  }
  posts_read();
}

}  // namespace emulated

#define threadIdx (emulated::machine.thread)
#define blockIdx (emulated::machine.block)
#define blockDim (emulated::machine.block_size)
#define gridDim (emulated::machine.grid_size)

inline void __syncthreads() { emulated::meet(emulated::machine.meeting); }
inline void __syncwarp(unsigned = 0xffffffffu) { emulated::meet(emulated::warp().meeting); }

namespace emulated {

// The value of the lane that `from` names; lanes outside the warp give one's own.
template <class T>
T shuffle(T value, int from) {
  post(value);
  const T result = from >= 0 && from < 32 ? posted<T>(static_cast<unsigned>(from)) : value;
  posts_read();
  return result;
}

}  // namespace emulated

// Masks are those of whole warps.
template <class T>
T __shfl_sync(unsigned, T value, int from) {
  return emulated::shuffle(value, from & 31);
}
template <class T>
T __shfl_xor_sync(unsigned, T value, int mask) {
  return emulated::shuffle(value, static_cast<int>(emulated::lane()) ^ mask);
}
template <class T>
T __shfl_up_sync(unsigned, T value, unsigned delta) {
  return emulated::shuffle(value, static_cast<int>(emulated::lane()) - static_cast<int>(delta));
}
template <class T>
T __shfl_down_sync(unsigned, T value, unsigned delta) {
  return emulated::shuffle(value, static_cast<int>(emulated::lane()) + static_cast<int>(delta));
}

inline unsigned __ballot_sync(unsigned, bool predicate) {
  emulated::post(predicate);
  unsigned votes = 0;
  const unsigned lanes = std::min(32u, blockDim.x - threadIdx.x / 32 * 32);
  for (unsigned l = 0; l < lanes; ++l) votes |= (emulated::posted<bool>(l) ? 1u : 0u) << l;
  emulated::posts_read();
  return votes;
}
inline bool __any_sync(unsigned mask, bool predicate) {
  return __ballot_sync(mask, predicate) != 0;
}
inline bool __all_sync(unsigned mask, bool predicate) {
  return __ballot_sync(mask, !predicate) == 0;
}

inline int __popc(unsigned bits) { return __builtin_popcount(bits); }
inline int __ffs(int bits) { return __builtin_ffs(bits); }

template <class T>
T atomicExch(T* to, T value) {
  return std::exchange(*to, value);
}
template <class T>
T atomicAdd(T* to, T value) {
  return std::exchange(*to, *to + value);
}
template <class T>
T atomicMax(T* to, T value) {
  return std::exchange(*to, std::max(*to, value));
}
template <class T>
T atomicMin(T* to, T value) {
  return std::exchange(*to, std::min(*to, value));
}
template <class T>
T atomicOr(T* to, T value) {
  return std::exchange(*to, *to | value);
}
template <class T>
T atomicCAS(T* to, T expected, T value) {
  const T before = *to;
  if (before == expected) *to = value;
  return before;
}
template <class T>
T __ldg(const T* from) {
  return *from;
}
inline void __threadfence() {}

inline float __uint_as_float(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

inline uint32_t __float_as_uint(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}
