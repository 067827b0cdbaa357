// One scratch buffer cut into arrays.
#pragma once

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>

namespace jsarag::cuda {

// Hands out aligned pieces of a buffer, one behind the other. Over a null pointer it only measures:
// the same code that takes the pieces says how many bytes they need.
class Scratch {
 public:
  explicit Scratch(void* base) : base_(static_cast<char*>(base)) {}

  template <class T>
  T* take(int64_t count) {
    const size_t at = used_;
    used_ += (static_cast<size_t>(count) * sizeof(T) + kAlign - 1) / kAlign * kAlign;
    return base_ ? reinterpret_cast<T*>(base_ + at) : nullptr;
  }

  size_t used() const { return used_; }

  // Throws where the caller brought less than was taken.
  void require(size_t available, const char* op) const {
    if (used_ > available)
      throw std::runtime_error(std::string(op) + ": expected " + std::to_string(used_) +
                               " bytes of scratch, found " + std::to_string(available));
  }

 private:
  static constexpr size_t kAlign = 256;
  char* base_;
  size_t used_ = 0;
};

}  // namespace jsarag::cuda
