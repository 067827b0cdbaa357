// The grid of CUTLASS's persistent scheduler for Hopper.
#pragma once

namespace jsarag::cuda {

// Columns of tiles that go over all rows together, so that what they read of either side is shared
// in the second-level cache: 8 where that costs little. The scheduler fills both sides up to
// multiples of it, rows to clusters of two besides, and tiles beyond the matrix take as long as
// others.
inline int swizzle_for(int row_tiles) {
  for (int size = 8; size > 1; size /= 2) {
    const int filled = (row_tiles + 2 * size - 1) / (2 * size) * (2 * size);
    if (8 * filled <= 9 * row_tiles) return size;
  }
  return 1;
}

}  // namespace jsarag::cuda
