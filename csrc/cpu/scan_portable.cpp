// scan's inner loops for portable; see detail/scan_kernels.h.
#include <cstddef>
#include <cstdint>

#include "cpu/detail/scan_kernels.h"

namespace jsarag::cpu {
namespace {

// clang-format off: the order matters
#include "cpu/detail/repeat.h"
#include "cpu/detail/simd_portable.h"
#include "cpu/detail/scan_kernels_body.h"
// clang-format on

}  // namespace

extern const ScanKernels kScanPortable = make_kernels("portable");

}  // namespace jsarag::cpu
