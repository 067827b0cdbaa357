#include "jsarag/cuda_call.h"

#include "bindings/ops.h"

namespace py = pybind11;

namespace jsarag::bindings {

void bind_cuda_call(py::module_& m) {
  py::class_<CudaCall>(m, "CudaCall")
      .def(py::init([](int device, uintptr_t stream, uintptr_t scratch, size_t scratch_bytes) {
             return CudaCall{device, pointer<void>(stream), pointer<void>(scratch), scratch_bytes};
           }),
           py::kw_only(), py::arg("device"), py::arg("stream"), py::arg("scratch"),
           py::arg("scratch_bytes"));
}

}  // namespace jsarag::bindings
