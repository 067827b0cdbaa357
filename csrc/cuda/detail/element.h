// Numbers of a row of passages as f32, scales left out.
#pragma once

#include <cstdint>
#include <type_traits>

#include "cuda/detail/simt.h"
#include "jsarag/scan.h"

namespace jsarag::cuda {

template <ScalarType kType>
struct Element;

template <>
struct Element<ScalarType::f32> {
  using Storage = float;
  static __device__ float value(float stored) { return stored; }
};

template <>
struct Element<ScalarType::bf16> {
  using Storage = uint16_t;
  static __device__ float value(uint16_t stored) { return bf16_value(stored); }
};

template <>
struct Element<ScalarType::f16> {
  using Storage = uint16_t;
  static __device__ float value(uint16_t stored) { return f16_value(stored); }
};

template <>
struct Element<ScalarType::i8> {
  using Storage = int8_t;
  static __device__ float value(int8_t stored) { return static_cast<float>(stored); }
};

template <ScalarType kType>
__device__ inline float load_element(const char* row, int64_t column) {
  using E = Element<kType>;
  return E::value(reinterpret_cast<const typename E::Storage*>(row)[column]);
}

// Calls f with std::integral_constant<ScalarType, type>.
template <class F>
void with_scalar_type(ScalarType type, F&& f) {
  switch (type) {
    case ScalarType::f32:
      return f(std::integral_constant<ScalarType, ScalarType::f32>{});
    case ScalarType::bf16:
      return f(std::integral_constant<ScalarType, ScalarType::bf16>{});
    case ScalarType::f16:
      return f(std::integral_constant<ScalarType, ScalarType::f16>{});
    case ScalarType::i8:
      return f(std::integral_constant<ScalarType, ScalarType::i8>{});
  }
}

}  // namespace jsarag::cuda
