#include "jsarag/mis_chain.h"

#include "bindings/ops.h"

namespace py = pybind11;

namespace jsarag::bindings {
namespace {

MisChainParams read(int64_t chains, int64_t steps, uintptr_t log_weight, uintptr_t start_log_weight,
                    uintptr_t uniforms, bool uniforms_f64, uintptr_t state, uintptr_t accepted,
                    uintptr_t visits, uintptr_t recycled) {
  MisChainParams params;
  params.chains = chains;
  params.steps = steps;
  params.log_weight = pointer<const float>(log_weight);
  params.start_log_weight = pointer<const float>(start_log_weight);
  params.uniforms = pointer<const void>(uniforms);
  params.uniforms_f64 = uniforms_f64;
  params.state = pointer<int32_t>(state);
  params.accepted = pointer<bool>(accepted);
  params.visits = pointer<float>(visits);
  params.recycled = pointer<float>(recycled);
  return params;
}

// `where`: a number of threads, or a CudaCall.
template <auto kRun, class Where>
void mis_chain(int64_t chains, int64_t steps, uintptr_t log_weight, uintptr_t start_log_weight,
               uintptr_t uniforms, bool uniforms_f64, uintptr_t state, uintptr_t accepted,
               uintptr_t visits, uintptr_t recycled, Where where) {
  kRun(read(chains, steps, log_weight, start_log_weight, uniforms, uniforms_f64, state, accepted,
            visits, recycled),
       where);
}

}  // namespace

void bind_mis_chain(py::module_& m) {
  announce(m, "CPU_OPS", "mis_chain");
  m.def("mis_chain_cpu", &mis_chain<&mis_chain_cpu, int>, py::call_guard<py::gil_scoped_release>());
#if JSARAG_WITH_CUDA
  announce(m, "CUDA_OPS", "mis_chain");
  m.def("mis_chain_cuda", &mis_chain<&mis_chain_cuda, const CudaCall&>,
        py::call_guard<py::gil_scoped_release>());
#endif
}

}  // namespace jsarag::bindings
