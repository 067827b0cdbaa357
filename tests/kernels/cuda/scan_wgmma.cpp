// The scan's products on Hopper without CUTLASS's main loop, which cannot be emulated: products
// summed in plain loops, laid out in registers as PTX says that wgmma m64n256k16 leaves them, and
// the same epilogue. What it tests are that and everything around it.
#include "cuda/detail/scan_wgmma.h"

#include "cuda/detail/launch.h"
#include "wgmma_registers.h"

namespace jsarag::cuda {
namespace {

constexpr int kRows = 128, kThreads = 256;

void wgmma_kernel(ScanProduct product, ScanWave wave, int column_tiles) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int column0 = static_cast<int>(blockIdx.x) % column_tiles * kScanColumns;
  const int row0 =
      static_cast<int>(blockIdx.x) / column_tiles * kRows + static_cast<int>(threadIdx.x) / 32 * 16;
  const auto value = [&](const void* numbers, int64_t at) {
    const uint16_t bits = static_cast<const uint16_t*>(numbers)[at];
    return static_cast<double>(product.type == ScalarType::bf16 ? bf16_value(bits)
                                                                : f16_value(bits));
  };
  float sums[kScanColumns / 2];
  emulated::fill_registers(sums, row0, column0, wave.queries, wave.count, lane,
                           [&](int64_t row, int64_t column) {
                             double sum = 0.0;
                             for (int64_t k = 0; k < product.width; ++k)
                               sum += value(product.queries, row * product.query_stride + k) *
                                      value(product.passages, column * product.passage_stride + k);
                             return sum;
                           });
  finish_scan_tile(sums, row0, column0, lane, wave);
}

}  // namespace

bool scan_wgmma_fits(const ScanProduct& product, int) {
  return emulated::hopper &&
         (product.type == ScalarType::bf16 || product.type == ScalarType::f16) &&
         product.width > 0 && product.passage_stride % 8 == 0 &&
         reinterpret_cast<uintptr_t>(product.passages) % 16 == 0;
}

void launch_scan_wgmma(const ScanProduct& product, const ScanWave& wave, int, void*) {
  // One more of each: CUTLASS's scheduler fills its grid up with tiles beyond the matrix.
  const int columns = (wave.count + kScanColumns - 1) / kScanColumns + 1;
  const int rows = (wave.queries + kRows - 1) / kRows + 1;
  launch("scan: wgmma", wgmma_kernel,
         LaunchShape{static_cast<unsigned>(rows * columns), kThreads, 0}, nullptr, product, wave,
         columns);
}

}  // namespace jsarag::cuda
