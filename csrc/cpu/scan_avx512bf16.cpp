// scan's inner loops for avx512bf16; see detail/scan_kernels.h.
#include <immintrin.h>
#include <cstddef>
#include <cstdint>

#include "cpu/detail/scan_kernels.h"

namespace jsarag::cpu {
namespace {

// clang-format off: the order matters
#include "cpu/detail/repeat.h"
#include "cpu/detail/simd_avx512.h"
#include "cpu/detail/scan_kernels_body.h"
// clang-format on

}  // namespace

extern const ScanKernels kScanAvx512Bf16 = make_kernels("avx512bf16");

}  // namespace jsarag::cpu
