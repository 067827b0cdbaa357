// Where and with what a CUDA op runs: the caller's device, stream and scratch memory.
#pragma once

#include <cstddef>

namespace jsarag {

struct CudaCall {
  int device;
  void* stream;   // a cudaStream_t; all work is queued on it, nothing waits for it
  void* scratch;  // at least <op>_cuda_scratch(params) bytes, 256-byte aligned
  size_t scratch_bytes;
};

}  // namespace jsarag
