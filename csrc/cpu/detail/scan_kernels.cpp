#include "cpu/detail/scan_kernels.h"

#include "cpu/detail/cpuid.h"

namespace jsarag::cpu {

const ScanKernels& scan_kernels() {
#if JSARAG_X86
  switch (best_isa()) {
    case Isa::amx:
      return kScanAmx;
    case Isa::avx512bf16:
      return kScanAvx512Bf16;
    case Isa::avx512:
      return kScanAvx512;
    case Isa::avx2:
      return kScanAvx2;
    case Isa::portable:
      break;
  }
#endif
  return kScanPortable;
}

}  // namespace jsarag::cpu
