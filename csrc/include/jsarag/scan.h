// One streaming pass over the knowledge base: top-k, tile log-sum-exp, draws, log-partition.
#pragma once

#include <cstdint>

namespace jsarag {

// Passages per tile of tile_lse: one constant for all backends; Python reads it from here and the
// reference repeats it (a test compares the two).
constexpr int64_t kTile = 512;

}  // namespace jsarag
