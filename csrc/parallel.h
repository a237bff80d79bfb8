// A loop over the threads of whoever calls.
#pragma once

#include <type_traits>

#include "batchnorm_cpu.h"

namespace batchnorm {
namespace {

class Parallel {
 public:
  // Less than so many values are not worth waking another thread.
  static constexpr int64_t least = 32768;

  Parallel(const batchnorm_call &call, int64_t values)
      : loop_(values < least || call.threads < 2 ? nullptr : call.parallel_for),
        threads_(loop_ == nullptr ? 1 : call.threads) {}

  int64_t threads() const { return threads_; }
  bool failed() const { return failed_; }

  // Calls f(i) for every i < count, each thread in ascending order.
  template <class F>
  void run(int64_t count, F f) {
    loop(count, f, [](int64_t begin, int64_t end, void *context) {
      for (int64_t i = begin; i < end; ++i) (*static_cast<F *>(context))(i);
    });
  }

  // In descending order: what a thread came to last in `run` comes first, while it is in its cache.
  template <class F>
  void run_backwards(int64_t count, F f) {
    loop(count, f, [](int64_t begin, int64_t end, void *context) {
      for (int64_t i = end; i-- > begin;) (*static_cast<F *>(context))(i);
    });
  }

 private:
  template <class F>
  void loop(int64_t count, F &f, batchnorm_body body) {
    if (loop_ == nullptr || count < 2) {
      body(0, count, &f);
    } else if (loop_(0, count, 1, body, &f) != 0) {
      failed_ = true;
    }
  }

  batchnorm_parallel_for loop_;
  int64_t threads_;
  bool failed_ = false;
};

}  // namespace
}  // namespace batchnorm
