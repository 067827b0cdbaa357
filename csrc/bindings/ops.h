// One function per op, each in its own file of this folder.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>

namespace jsarag::bindings {

// An address passed as a Python integer; 0 is a null pointer.
template <typename T>
T* pointer(uintptr_t address) {
  return reinterpret_cast<T*>(address);
}

// Adds an op to the module's tuple CPU_OPS or CUDA_OPS: what backends.select may choose.
inline void announce(pybind11::module_& m, const char* tuple, const char* op) {
  const pybind11::tuple known = pybind11::hasattr(m, tuple) ? m.attr(tuple) : pybind11::tuple();
  m.attr(tuple) = known + pybind11::make_tuple(op);
}

void bind_cuda_call(pybind11::module_& m);
void bind_mis_chain(pybind11::module_& m);
void bind_passage_logp(pybind11::module_& m);
void bind_scan(pybind11::module_& m);

}  // namespace jsarag::bindings
