// The module jsarag._native. Tensors arrive as addresses: jsarag/backends/native is the only
// caller and has checked shapes, dtypes and strides.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "bindings/ops.h"
#include "jsarag/device_info.h"

namespace py = pybind11;

PYBIND11_MODULE(_native, m) {
  m.doc() = "Compiled kernels of jsarag; use jsarag.ops.";
  m.def("cpu_features", &jsarag::cpu_features);
  m.def("cuda_built", &jsarag::cuda_built);
  m.def("cuda_architectures", &jsarag::cuda_architectures);
  m.def("cuda_device_name", &jsarag::cuda_device_name);
  jsarag::bindings::bind_cuda_call(m);
  jsarag::bindings::bind_mis_chain(m);
  jsarag::bindings::bind_passage_logp(m);
  jsarag::bindings::bind_scan(m);
}
