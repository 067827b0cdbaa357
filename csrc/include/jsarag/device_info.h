// What this build and this machine offer, for the backend report.
#pragma once

#include <string>
#include <vector>

namespace jsarag {

// Instruction sets the running CPU offers and the kernels know, weakest first.
std::vector<std::string> cpu_features();

// True if the module holds CUDA kernels.
bool cuda_built();

// Architectures the CUDA kernels were compiled for, e.g. {"sm_80", "sm_90a", "compute_90"} (the
// last is PTX, for newer devices); empty without CUDA.
std::vector<std::string> cuda_architectures();

// The first CUDA device's name, or "" where there is none (no driver is needed to ask).
std::string cuda_device_name();

}  // namespace jsarag
