// The CUDA kernels as a Python module for machines without a GPU: the same sources and bindings as
// jsarag._native, over emulated_cuda.h. The CPU kernels are not in it.
#include <pybind11/pybind11.h>

#include <stdexcept>

#include "bindings/ops.h"
#include "cuda/detail/hopper_tiles.h"
#include "emulated_cuda.h"
#include "jsarag/draw.h"
#include "jsarag/log_partition.h"
#include "jsarag/mis_chain.h"
#include "jsarag/passage_logp.h"
#include "jsarag/scan.h"

namespace jsarag {
namespace {

[[noreturn]] void no_cpu() { throw std::runtime_error("the emulated module has no CPU kernels"); }

}  // namespace

void scan_cpu(const ScanParams&) { no_cpu(); }
void mis_chain_cpu(const MisChainParams&, int) { no_cpu(); }
void passage_logp_cpu(const PassageLogpParams&, int) { no_cpu(); }
void passage_logp_backward_cpu(const PassageLogpBackwardParams&, int) { no_cpu(); }
void row_errors_cpu(const RowErrorParams&) { no_cpu(); }
void draw_cpu(const DrawParams&) { no_cpu(); }
void log_partition_cpu(const LogPartitionParams&) { no_cpu(); }
void log_partition_backward_cpu(const LogPartitionBackwardParams&) { no_cpu(); }

}  // namespace jsarag

PYBIND11_MODULE(_emulated, m) {
  m.def("shared_memory_limit", [] { return emulated::shared_memory_limit; });
  m.def("set_shared_memory_limit", [](size_t bytes) { emulated::shared_memory_limit = bytes; });
  jsarag::bindings::bind_cuda_call(m);
  m.def("swizzle_for", &jsarag::cuda::swizzle_for);
  m.def("set_hopper", [](bool on) { emulated::hopper = on; });
  jsarag::bindings::bind_mis_chain(m);
  jsarag::bindings::bind_passage_logp(m);
  jsarag::bindings::bind_scan(m);
}
