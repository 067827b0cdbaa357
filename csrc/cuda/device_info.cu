// The CUDA half of jsarag/device_info.h: what was built, and the device if there is one.
#include <cuda_runtime_api.h>

#include <sstream>
#include <string>
#include <vector>

#include "jsarag/device_info.h"

namespace jsarag {

bool cuda_built() { return true; }

std::vector<std::string> cuda_architectures() {
  std::vector<std::string> names;
  std::stringstream list(JSARAG_CUDA_ARCHITECTURES);
  const std::string ptx = "-virtual";
  for (std::string name; std::getline(list, name, ',');) {
    const size_t at = name.find(ptx);
    names.push_back(at == std::string::npos ? "sm_" + name : "compute_" + name.substr(0, at));
  }
  return names;
}

std::string cuda_device_name() {
  int count = 0;
  if (cudaGetDeviceCount(&count) != cudaSuccess || count == 0) {
    cudaGetLastError();  // no driver is an answer, not an error to keep
    return "";
  }
  cudaDeviceProp properties{};
  if (cudaGetDeviceProperties(&properties, 0) != cudaSuccess) return "";
  return properties.name;
}

}  // namespace jsarag
