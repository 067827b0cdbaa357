// scan's inner loops for avx2; see detail/scan_kernels.h.
#include <immintrin.h>
#include <cstddef>
#include <cstdint>

#include "cpu/detail/scan_kernels.h"

namespace jsarag::cpu {
namespace {

// clang-format off: the order matters
#include "cpu/detail/repeat.h"
#include "cpu/detail/simd_avx2.h"
#include "cpu/detail/scan_kernels_body.h"
// clang-format on

}  // namespace

extern const ScanKernels kScanAvx2 = make_kernels("avx2");

}  // namespace jsarag::cpu
