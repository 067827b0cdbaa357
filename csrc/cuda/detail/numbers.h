// Numbers that are none, as host and device code spell them alike.
#pragma once

#include <limits>

namespace jsarag::cuda {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

}  // namespace jsarag::cuda
