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

// A query's number as the scan multiplies it with bf16 or f16 rows: rounded to their precision, to
// nearest even. The scan scales f16 queries first, so that their range is f32's.
template <ScalarType kType>
__device__ inline float round_query(float x) {
  if constexpr (kType == ScalarType::bf16) return bf16_value(bf16_bits(x));
  if constexpr (kType == ScalarType::f16) {
    constexpr uint32_t kDropped = 13;  // of f32's 23 bits f16 has 10
    const uint32_t bits = __float_as_uint(x);
    if ((bits & 0x7f800000u) == 0x7f800000u) return x;
    const uint32_t half = (1u << (kDropped - 1)) - 1 + (bits >> kDropped & 1u);
    return __uint_as_float((bits + half) >> kDropped << kDropped);
  }
  return x;
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
