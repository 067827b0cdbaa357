// Where a row's 16-byte pieces lie in shared memory: neither the copies that bring them nor
// ldmatrix, which reads a column of eight, meet a bank twice.
#pragma once

#include "cuda/detail/simt.h"

namespace jsarag::cuda {

constexpr int kSwizzledBytes = 128;  // of a row
constexpr int kSwizzledPieces = kSwizzledBytes / 16;

JSARAG_HOST_DEVICE inline int piece_offset(int row, int piece) {
  return row * kSwizzledBytes + ((piece ^ (row & 7)) * 16);
}

}  // namespace jsarag::cuda
