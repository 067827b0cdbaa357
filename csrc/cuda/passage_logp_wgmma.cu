// passage_logp's products on Hopper: CUTLASS's TMA + wgmma main loop, warp-specialised and
// persistent, with the epilogues of detail/passage_logp_epilogue.h in place of a store.
//
// Floor of the forward pass at H = 4096, V = 131072, T = 8192 in bf16: 2 T V H = 8.8 TFLOP. At a
// matmul rate of 790 TFLOP/s that is 11.1 ms. It reads the weight once, 1.07 GB, and hidden from
// the second-level cache: 0.3 ms at 4.3 TB/s, hidden behind the products. A 128 x 256 tile takes
// 64 steps of k, about 45 us of an SM; its epilogue (32768 exponentials at 16 a clock, about four
// more instructions each at 128 a clock) 1.5 to 2 us, in which the tensor cores wait: 4 %.
// Expected: 12 to 13 ms, 85 to 90 % of the matmul rate. Partials are 8 T V / 256 bytes, 33.5 MB,
// against the 2.1 GB of bf16 logits.
//
// The backward pass makes each chunk's products again (11.1 ms in all) and stores their gradient,
// 2.1 GB in all; the two products that read it are 22.2 ms more at the same rate. Expected: 36 to
// 40 ms.
#include "cuda/detail/passage_logp_wgmma.h"

#include "cuda/detail/hopper_gemm.h"

namespace jsarag::cuda::passage_logp {
namespace {

static_assert(kWgmmaTile == kHopperColumns);

template <class Output>
struct Finish {
  Output to;

  __device__ void finish(float* registers, int row, int column_tile, int lane) const {
    finish_tile<FastExp>(MmaFragment<kWgmmaTile / 8>{registers, row, lane}, to, column_tile);
  }
};

template <class Output>
void launch_gemm(const Product& p, const Output& to, int device, void* stream) {
  const HopperProduct product{p.left, p.left_stride, p.right, p.right_stride,
                              p.rows, p.columns,     p.width};
  launch_hopper_gemm<cutlass::bfloat16_t>("passage_logp: wgmma products", product,
                                          Finish<Output>{to}, device, stream);
}

}  // namespace

bool wgmma_fits(const Product& product, int device) {
  return product.aligned && product.width % kHopperAlignment == 0 && on_hopper(device);
}

void launch_wgmma(const Product& product, const ForwardOutput& to, int device, void* stream) {
  launch_gemm(product, to, device, stream);
}

void launch_wgmma(const Product& product, const BackwardOutput& to, int device, void* stream) {
  launch_gemm(product, to, device, stream);
}

}  // namespace jsarag::cuda::passage_logp
