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

void bind_scan(pybind11::module_& m);

}  // namespace jsarag::bindings
