// More than 2^31 values in a few megabytes: the same pages of memory again and again, so that what is computed of all
// turns must be what is computed of one.
#pragma once

#include "problem.h"

namespace test {

class Repeated {
 public:
  // The values fill whole pages.
  Repeated(const Values &once, int64_t turns) : bytes_(once.memory().bytes()), turns_(turns) {
    const size_t all = static_cast<size_t>(bytes_ * turns), turn = static_cast<size_t>(bytes_);
    const int file = memfd_create("repeated", 0);
    void *reserved = mmap(nullptr, all, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (file < 0 || ftruncate(file, bytes_) != 0 || reserved == MAP_FAILED) std::abort();
    memory_ = static_cast<unsigned char *>(reserved);
    for (int64_t t = 0; t < turns; ++t) {
      const int flags = MAP_SHARED | MAP_FIXED;
      if (mmap(memory_ + t * bytes_, turn, PROT_READ | PROT_WRITE, flags, file, 0) == MAP_FAILED) std::abort();
    }
    close(file);
    std::memcpy(memory_, once.data(), turn);
  }
  ~Repeated() { munmap(memory_, static_cast<size_t>(bytes_ * turns_)); }
  Repeated(const Repeated &) = delete;
  Repeated &operator=(const Repeated &) = delete;

  void *data() const { return memory_; }
  double operator[](int64_t i) const { return from_bfloat16(reinterpret_cast<const uint16_t *>(memory_)[i]); }

 private:
  int64_t bytes_, turns_;
  unsigned char *memory_ = nullptr;
};

class Huge {
 public:
  // `one` has been computed.
  explicit Huge(const Problem &one) : one_(one), turns_((int64_t{1} << 31) / one.all + 2) {}

  void run(batchnorm_parallel_for parallel_for) {
    batchnorm_call call = one_.call(3, parallel_for);
    call.outer *= turns_;
    call.x = x_.data(), call.y = y_.data(), call.grad_output = grad_.data(), call.grad_input = grad_input_.data();
    call.grad_residual = nullptr;
    call.mean = vectors_.floats(), call.mean_low = call.mean + one_.channels, call.var = call.mean_low + one_.channels;
    call.invstd = call.var + one_.channels, call.grad_weight = call.invstd + one_.channels;
    call.grad_bias = call.grad_weight + one_.channels;
    check(batchnorm_train(&call) == BATCHNORM_OK, "the code of a huge forward pass", one_.options);
    check(batchnorm_backward(&call) == BATCHNORM_OK, "the code of a huge backward pass", one_.options);
    compare_vectors(call);
    compare_outputs();
  }

 private:
  // The sums are added in another order.
  void compare_vectors(const batchnorm_call &call) const {
    const double turns = static_cast<double>(turns_), scale = turns * static_cast<double>(one_.count);
    for (int64_t c = 0; c < one_.channels; ++c) {
      check(std::fabs(call.mean[c] - one_.mean[c]) <= 1e-5, "mean of many", one_.options);
      check(std::fabs(call.var[c] - one_.var[c]) <= 2e-5 * one_.var[c], "var of many", one_.options);
      check(std::fabs(call.grad_bias[c] - turns * one_.grad_bias[c]) <= 1e-5 * scale, "sum of many", one_.options);
      check(std::fabs(call.grad_weight[c] - turns * one_.grad_weight[c]) <= 3e-5 * scale, "dot of many", one_.options);
    }
  }

  // What is near the middle of two numbers may go either way.
  void compare_outputs() const {
    const double ulp = 2 * roundoff(BATCHNORM_BFLOAT16);
    for (int64_t i = 0; i < one_.all; ++i) {
      const double y = one_.y[i], gradient = one_.grad_input[i];
      if (!check(std::fabs(y_[i] - y) <= ulp * std::fabs(y) + 1e-4, "y of many", one_.options)) return;
      const double tolerance = ulp * std::fabs(gradient) + 1e-3;
      if (!check(std::fabs(grad_input_[i] - gradient) <= tolerance, "grad_input of many", one_.options)) return;
    }
  }

  const Problem &one_;
  const int64_t turns_;
  const Repeated x_{one_.x, turns_}, grad_{one_.grad, turns_}, y_{one_.x, turns_}, grad_input_{one_.x, turns_};
  const Values vectors_{6 * one_.channels, BATCHNORM_FLOAT, Guarded::Page::after};
};

}  // namespace test
