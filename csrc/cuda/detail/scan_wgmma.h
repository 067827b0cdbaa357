// The scan's products by TMA and wgmma, a wave of passages at a time: compute capability 9.0, bf16
// or f16, rows that start on 16 bytes.
#pragma once

#include <cstdint>

#include "cuda/detail/scan_epilogue.h"
#include "jsarag/scan.h"

namespace jsarag::cuda {

struct ScanProduct {
  const void* queries;   // [B, D] of `type`, rounded
  int64_t query_stride;  // in elements, like passage_stride
  const void* passages;  // the wave's first
  int64_t passage_stride;
  ScalarType type;
  int width;  // D
};

#if JSARAG_WITH_CUTLASS
// Whether they take these operands on this device. Does not wait.
bool scan_wgmma_fits(const ScanProduct& product, int device);

// Queues the wave's products. Counts must be zero and thresholds set before; does not wait.
void launch_scan_wgmma(const ScanProduct& product, const ScanWave& wave, int device, void* stream);
#else
inline bool scan_wgmma_fits(const ScanProduct&, int) { return false; }
inline void launch_scan_wgmma(const ScanProduct&, const ScanWave&, int, void*) {}
#endif

}  // namespace jsarag::cuda
