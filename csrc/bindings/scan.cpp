#include "jsarag/scan.h"

#include "bindings/ops.h"

namespace py = pybind11;

namespace jsarag::bindings {

void bind_scan(py::module_& m) { m.attr("TILE") = kTile; }

}  // namespace jsarag::bindings
