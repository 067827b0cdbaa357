// Launching kernels: every launch is checked, and its error names the op.
#pragma once

#include <cstddef>
#include <stdexcept>
#include <string>

#include "cuda/detail/simt.h"

namespace jsarag::cuda {

struct LaunchShape {
  unsigned grid;
  unsigned block;
  size_t shared_bytes;  // dynamic
};

#if JSARAG_EMULATE_CUDA

class DeviceGuard {
 public:
  explicit DeviceGuard(int) {}
  ~DeviceGuard() {}
};

inline size_t shared_memory_limit(int) { return emulated::shared_memory_limit; }
// A few: enough for several streams.
inline int multiprocessors(int) { return 3; }

template <class... Parameters, class... Arguments>
void launch(const char* name, void (*kernel)(Parameters...), const LaunchShape& shape, void*,
            const Arguments&... arguments) {
  if (shape.shared_bytes > emulated::shared_memory_limit)
    throw std::runtime_error(std::string(name) + ": too much shared memory");
  emulated::run(shape.grid, shape.block, shape.shared_bytes, [&] { kernel(arguments...); });
}

#else

inline void check(cudaError_t status, const char* name) {
  if (status != cudaSuccess)
    throw std::runtime_error(std::string(name) + ": " + cudaGetErrorString(status));
}

// Makes a device current, and the caller's one again at the end.
class DeviceGuard {
 public:
  explicit DeviceGuard(int device) {
    check(cudaGetDevice(&before_), "cudaGetDevice");
    if (device != before_) check(cudaSetDevice(device), "cudaSetDevice");
  }
  ~DeviceGuard() { cudaSetDevice(before_); }
  DeviceGuard(const DeviceGuard&) = delete;
  DeviceGuard& operator=(const DeviceGuard&) = delete;

 private:
  int before_ = 0;
};

// Dynamic shared memory a block may ask for.
inline size_t shared_memory_limit(int device) {
  int bytes = 0;
  check(cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device),
        "cudaDeviceGetAttribute");
  return static_cast<size_t>(bytes);
}

inline int multiprocessors(int device) {
  int count = 0;
  check(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device),
        "cudaDeviceGetAttribute");
  return count;
}

template <class... Parameters, class... Arguments>
void launch(const char* name, void (*kernel)(Parameters...), const LaunchShape& shape, void* stream,
            const Arguments&... arguments) {
  constexpr size_t kWithoutAsking = 48 * 1024;
  if (shape.shared_bytes > kWithoutAsking)
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                               static_cast<int>(shape.shared_bytes)),
          name);
  // clang-format off
  kernel<<<shape.grid, shape.block, shape.shared_bytes, static_cast<cudaStream_t>(stream)>>>(
      arguments...);
  // clang-format on
  check(cudaGetLastError(), name);
}

#endif

}  // namespace jsarag::cuda
