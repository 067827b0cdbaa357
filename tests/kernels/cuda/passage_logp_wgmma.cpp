// passage_logp's products on Hopper without CUTLASS's main loop, which cannot be emulated: products
// summed in plain loops, laid out in registers as PTX says that wgmma m64n256k16 leaves them, and
// the same epilogues. What it tests are those and everything around them.
#include "cuda/detail/passage_logp_wgmma.h"

#include "cuda/detail/launch.h"
#include "wgmma_registers.h"

namespace jsarag::cuda::passage_logp {
namespace {

constexpr int kRows = 128, kThreads = 256;

template <class Output>
void wgmma_kernel(Product product, Output to, int column_tiles) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int column_tile = static_cast<int>(blockIdx.x) % column_tiles;
  const int row0 =
      static_cast<int>(blockIdx.x) / column_tiles * kRows + static_cast<int>(threadIdx.x) / 32 * 16;
  const auto* left = static_cast<const uint16_t*>(product.left);
  const auto* right = static_cast<const uint16_t*>(product.right);
  float sums[kWgmmaTile / 2];
  emulated::fill_registers(
      sums, row0, column_tile * kWgmmaTile, product.rows, product.columns, lane,
      [&](int64_t row, int64_t column) {
        double sum = 0.0;
        for (int64_t k = 0; k < product.width; ++k)
          sum += static_cast<double>(bf16_value(left[row * product.left_stride + k])) *
                 bf16_value(right[column * product.right_stride + k]);
        return sum;
      });
  finish_tile<FastExp>(MmaFragment<kWgmmaTile / 8>{sums, row0, lane}, to, column_tile);
}

template <class Output>
void run(const Product& product, const Output& to) {
  // One more of each: CUTLASS's scheduler fills its grid up with tiles beyond the matrix.
  const int columns = (product.columns + kWgmmaTile - 1) / kWgmmaTile + 1;
  const int rows = (product.rows + kRows - 1) / kRows + 1;
  launch("passage_logp: wgmma", wgmma_kernel<Output>,
         LaunchShape{static_cast<unsigned>(rows * columns), kThreads, 0}, nullptr, product, to,
         columns);
}

}  // namespace

bool wgmma_fits(const Product& product, int) { return emulated::hopper && product.width % 8 == 0; }
void launch_wgmma(const Product& product, const ForwardOutput& to, int, void*) { run(product, to); }
void launch_wgmma(const Product& product, const BackwardOutput& to, int, void*) {
  run(product, to);
}

}  // namespace jsarag::cuda::passage_logp
