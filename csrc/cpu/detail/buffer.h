// Uninitialised, cache-line aligned scratch memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <new>

namespace jsarag::cpu {

template <typename T>
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(int64_t size)
      : data_(size > 0 ? static_cast<T*>(::operator new(static_cast<size_t>(size) * sizeof(T),
                                                        std::align_val_t{64}))
                       : nullptr) {}
  ~Buffer() { release(); }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  Buffer(Buffer&& other) noexcept : data_(other.data_) { other.data_ = nullptr; }
  Buffer& operator=(Buffer&& other) noexcept {
    if (this != &other) {
      release();
      data_ = other.data_;
      other.data_ = nullptr;
    }
    return *this;
  }
  T* data() { return data_; }
  const T* data() const { return data_; }
  T& operator[](int64_t i) { return data_[i]; }
  const T& operator[](int64_t i) const { return data_[i]; }

 private:
  void release() {
    if (data_ != nullptr) ::operator delete(data_, std::align_val_t{64});
  }
  T* data_ = nullptr;
};

}  // namespace jsarag::cpu
