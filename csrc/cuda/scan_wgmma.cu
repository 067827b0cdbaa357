// Products of many queries with a wave of passages on Hopper: CUTLASS's TMA + wgmma main loop,
// warp-specialised and persistent, with detail/scan_epilogue.h in place of a store.
//
// Floor at B = 2048, N = 8M, D = 768 in bf16: 2 B N D = 25.2 TFLOP, at a matmul rate of 790
// TFLOP/s 32 ms. A 128 x 256 tile takes 12 steps of k, 50.3 MFLOP: 8.4 us of an SM. Its epilogue
// passes three times over 128 registers a lane (scale, compare, and with tile_lse an exponential
// each: 32768 at 16 a clock are 1.2 us): an estimated 1 us without tile_lse and 2.5 us with it, in
// which the tensor cores wait. Expected: 36 ms without and 42 ms with tile_lse, if nothing else
// waits; no run has confirmed either. Scores that pass the threshold are few: 3 k a query and
// wave in random order, six waves (detail/scan_waves.h). At k = 100 that is 30 MB written and 30 MB
// read over all, and 67 MB in the first wave, which keeps all 4096 scores of each query and is read
// again for each byte of the selection: about 0.1 ms at 4 TB/s.
#include "cuda/detail/scan_wgmma.h"

#include "cuda/detail/hopper_gemm.h"

namespace jsarag::cuda {
namespace {

static_assert(kScanColumns == kHopperColumns);

struct Finish {
  ScanWave wave;

  __device__ void finish(float* registers, int row, int column_tile, int lane) const {
    finish_scan_tile(registers, row, column_tile * kScanColumns, lane, wave);
  }
};

template <class Element>
void launch_gemm(const ScanProduct& p, const ScanWave& wave, int device, void* stream) {
  const HopperProduct product{p.queries,    p.query_stride, p.passages, p.passage_stride,
                              wave.queries, wave.count,     p.width};
  launch_hopper_gemm<Element>("scan: wgmma products", product, Finish{wave}, device, stream);
}

}  // namespace

bool scan_wgmma_fits(const ScanProduct& product, int device) {
  return (product.type == ScalarType::bf16 || product.type == ScalarType::f16) &&
         product.width > 0 && product.query_stride % kHopperAlignment == 0 &&
         product.passage_stride % kHopperAlignment == 0 &&
         reinterpret_cast<uintptr_t>(product.passages) % 16 == 0 && on_hopper(device);
}

void launch_scan_wgmma(const ScanProduct& product, const ScanWave& wave, int device, void* stream) {
  if (product.type == ScalarType::bf16)
    launch_gemm<cutlass::bfloat16_t>(product, wave, device, stream);
  else
    launch_gemm<cutlass::half_t>(product, wave, device, stream);
}

}  // namespace jsarag::cuda
