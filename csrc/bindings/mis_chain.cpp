#include "jsarag/mis_chain.h"

#include "bindings/ops.h"

namespace py = pybind11;

namespace jsarag::bindings {
namespace {

void mis_chain(int64_t chains, int64_t steps, uintptr_t log_weight, uintptr_t start_log_weight,
               uintptr_t uniforms, bool uniforms_f64, uintptr_t state, uintptr_t accepted,
               uintptr_t visits, uintptr_t recycled, int threads) {
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
  mis_chain_cpu(params, threads);
}

}  // namespace

void bind_mis_chain(py::module_& m) {
  announce(m, "CPU_OPS", "mis_chain");
  m.def("mis_chain_cpu", &mis_chain, py::call_guard<py::gil_scoped_release>());
}

}  // namespace jsarag::bindings
