// row_errors on the GPU: how far each row was rounded, as upper bounds. One warp per row, in f64.
#include <algorithm>
#include <cmath>

#include "cuda/detail/element.h"
#include "cuda/detail/launch.h"
#include "cuda/detail/numbers.h"
#include "cuda/detail/simt.h"
#include "jsarag/scan.h"

namespace jsarag {
namespace cuda {
namespace {

constexpr int kWarps = 8;
// For the rounding of the sums and of the root, as on the CPU.
constexpr double kInflate = 1.000001;

struct Work {
  const char* rounded;
  int64_t rounded_bytes;
  const float* scales;
  const char* exact;
  int64_t exact_bytes;
  int64_t rows, width;
  float* row_error;
  float* row_norm;
};

__device__ float rounded_up(double squared) {
  const float root = static_cast<float>(sqrt(squared) * kInflate);
  // False for NaN too: a row that is not finite is as far off as can be.
  return root < kInfinity ? root : kInfinity;
}

template <ScalarType kType>
__global__ void __launch_bounds__(32 * kWarps) row_errors_kernel(Work work) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / 32;
  if (row >= work.rows) return;
  const char* rounded = work.rounded + row * work.rounded_bytes;
  const auto* exact = reinterpret_cast<const float*>(work.exact + row * work.exact_bytes);
  const double scale = work.scales ? static_cast<double>(work.scales[row]) : 1.0;
  double error = 0.0, norm = 0.0;
#pragma unroll 4
  for (int64_t d = lane; d < work.width; d += 32) {
    const double near = static_cast<double>(load_element<kType>(rounded, d)) * scale;
    const double off = static_cast<double>(exact[d]) - near;
    error += off * off;
    norm += near * near;
  }
  for (int half = 16; half > 0; half /= 2) {
    error += __shfl_xor_sync(0xffffffffu, error, half);
    norm += __shfl_xor_sync(0xffffffffu, norm, half);
  }
  if (lane == 0) {
    work.row_error[row] = rounded_up(error);
    work.row_norm[row] = rounded_up(norm);
  }
}

}  // namespace
}  // namespace cuda

void row_errors_cuda(const RowErrorParams& p, const CudaCall& call) {
  using namespace cuda;
  if (p.rounded.count == 0) return;
  const DeviceGuard guard(call.device);
  const Work work{static_cast<const char*>(p.rounded.data),
                  p.rounded.row_bytes,
                  p.rounded.scales,
                  static_cast<const char*>(p.exact.data),
                  p.exact.row_bytes,
                  p.rounded.count,
                  p.rounded.width,
                  p.row_error,
                  p.row_norm};
  const auto blocks = static_cast<unsigned>((work.rows + kWarps - 1) / kWarps);
  with_scalar_type(p.rounded.type, [&](auto type) {
    launch("row_errors", row_errors_kernel<decltype(type)::value>,
           LaunchShape{blocks, 32 * kWarps, 0}, call.stream, work);
  });
}

}  // namespace jsarag
