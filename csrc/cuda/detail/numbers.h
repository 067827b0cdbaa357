// What host and device code spell alike: numbers that are none, and quotients rounded up.
#pragma once

#include <cstdint>
#include <limits>

namespace jsarag::cuda {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

}  // namespace jsarag::cuda
