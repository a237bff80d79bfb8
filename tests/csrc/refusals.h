// Calls that make no sense, and those that end otherwise than well.
#pragma once

#include <limits>

#include "problem.h"

namespace test {

template <class Change>
void refuses(const char *what, int32_t (*function)(const batchnorm_call *), Change change) {
  static const Options options = {{2, 3, 4}};
  at_work = &options;
  const Problem problem(options, Guarded::Page::after);
  batchnorm_call call = problem.call(1, nullptr);
  call.running_mean = problem.running_mean.floats(), call.running_var = problem.running_var.floats();
  check(function(&call) != BATCHNORM_BAD_ARGUMENT, "sense is refused", options);
  change(call);
  check(function(&call) == BATCHNORM_BAD_ARGUMENT, what, options);
}

inline void refuses_everywhere(int32_t (*function)(const batchnorm_call *)) {
  check(function(nullptr) == BATCHNORM_BAD_ARGUMENT, "no call is taken", {{0, 0, 0}});
  refuses("a negative size is taken", function, [](batchnorm_call &c) { c.inner = -1; });
  refuses("two negative sizes are taken", function, [](batchnorm_call &c) { c.outer = -2, c.inner = -1; });
  refuses("sizes that overflow are taken", function, [](batchnorm_call &c) { c.outer = INT64_MAX, c.channels = 8; });
  refuses("an unknown dtype is taken", function, [](batchnorm_call &c) { c.dtype = 2; });
  refuses("a negative dtype is taken", function, [](batchnorm_call &c) { c.dtype = -1; });
  refuses("an unknown activation is taken", function, [](batchnorm_call &c) { c.activation = 9; });
  refuses("a negative activation is taken", function, [](batchnorm_call &c) { c.activation = -1; });
  refuses("no x is taken", function, [](batchnorm_call &c) { c.x = nullptr; });
  refuses("no mean is taken", function, [](batchnorm_call &c) { c.mean = nullptr; });
  refuses("no invstd is taken", function, [](batchnorm_call &c) { c.invstd = nullptr; });
}

inline void refuses_pointers() {
  static uint16_t word = 0;
  for (const auto function : {batchnorm_train, batchnorm_normalize, batchnorm_evaluate}) {
    refuses("no y is taken", function, [](batchnorm_call &c) { c.y = nullptr; });
  }
  for (const auto function : {batchnorm_train, batchnorm_stats}) {
    refuses("no var is taken", function, [](batchnorm_call &c) { c.var = nullptr; });
  }
  for (const auto function : {batchnorm_train, batchnorm_normalize, batchnorm_evaluate, batchnorm_backward}) {
    refuses("signs of silu are taken", function,
            [](batchnorm_call &c) { c.signs = &word, c.activation = BATCHNORM_SILU; });
  }
  refuses("no running mean is taken", batchnorm_evaluate, [](batchnorm_call &c) { c.running_mean = nullptr; });
  refuses("no running var is taken", batchnorm_evaluate, [](batchnorm_call &c) { c.running_var = nullptr; });
  refuses("no grad_output is taken", batchnorm_backward, [](batchnorm_call &c) { c.grad_output = nullptr; });
}

// Of tensors far larger than memory only the arithmetic can be tried here.
inline void counts_beyond_32_bits() {
  const Options options = {{0, 0, 0}};
  for (const int64_t inner : {int64_t{1}, int64_t{49}, int64_t{1} << 20}) {
    const int64_t values = (int64_t{1} << 20) * 4099 * inner;
    const int64_t words = batchnorm_sign_words(int64_t{1} << 20, 4099, inner, BATCHNORM_FLOAT);
    check(words >= values / 16 && words <= values, "signs of many values", options);
  }
  check(batchnorm_sign_words(INT64_MAX, 2, 1, BATCHNORM_FLOAT) == -1, "signs of an overflow", options);
  check(batchnorm_sign_words(1, -1, 1, BATCHNORM_FLOAT) == -1, "signs of a negative size", options);
  check(batchnorm_sign_words(1, 1, 1, 7) == -1, "signs of an unknown dtype", options);
  check(batchnorm_sign_words(0, 5, 7, BATCHNORM_FLOAT) == 0, "signs of nothing", options);
}

inline int32_t fails(int64_t, int64_t, int64_t, batchnorm_body, void *) { return 1; }

inline void tells_of_failure() {
  const Options options = {{32, 16, 196}};
  const Problem problem(options, Guarded::Page::after);
  const batchnorm_call call = problem.call(2, fails);
  check(batchnorm_train(&call) == BATCHNORM_PARALLEL_FAILED, "a loop that failed is no failure", options);
  check(batchnorm_backward(&call) == BATCHNORM_PARALLEL_FAILED, "a loop that failed is no failure", options);
  check(batchnorm_restrict("mmx") == BATCHNORM_BAD_ARGUMENT, "unknown instructions are taken", options);
  check(batchnorm_restrict(nullptr) == BATCHNORM_BAD_ARGUMENT, "no instructions are taken", options);
}

}  // namespace test
