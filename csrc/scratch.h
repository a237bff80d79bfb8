// All that a call needs beside its tensors.
#pragma once

#include <cstdint>
#include <cstdlib>

namespace batchnorm {
namespace {

class Scratch {
 public:
  // Room for `vectors` of `slots` values of `size` bytes, and for `doubles`.
  Scratch(int64_t vectors, int64_t slots, int64_t size, int64_t doubles)
      : vector_bytes_(padded(slots * size)),
        bytes_(vectors * vector_bytes_ + padded(doubles * 8)),
        memory_(bytes_ <= few ? nullptr : std::malloc(static_cast<size_t>(bytes_ + line))),
        next_(bytes_ <= few ? few_ : reinterpret_cast<char *>(padded(reinterpret_cast<int64_t>(memory_)))) {}
  ~Scratch() { std::free(memory_); }
  Scratch(const Scratch &) = delete;
  Scratch &operator=(const Scratch &) = delete;

  bool missing() const { return memory_ == nullptr && bytes_ > few; }

  // The next vector; whole vectors of the machine can be loaded from any slot on.
  template <class T>
  T *vector() {
    return static_cast<T *>(take(vector_bytes_));
  }
  double *doubles(int64_t count) { return static_cast<double *>(take(padded(count * 8))); }

 private:
  static constexpr int64_t line = 64;   // bytes; also the longest vector
  static constexpr int64_t few = 8192;  // bytes that may lie on the stack
  static int64_t padded(int64_t bytes) { return (bytes + line - 1) / line * line; }

  void *take(int64_t bytes) {
    char *taken = next_;
    next_ += bytes;
    return taken;
  }

  int64_t vector_bytes_, bytes_;
  void *memory_;
  char *next_;
  alignas(line) char few_[few];
};

}  // namespace
}  // namespace batchnorm
