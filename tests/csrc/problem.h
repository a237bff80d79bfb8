// One call of the kernels: its options, its memory, and what the memory is filled with.
#pragma once

#include <cstdio>
#include <vector>

#include "activations.h"
#include "values.h"

namespace test {

struct Size {
  int64_t outer, channels, inner;
};

struct Options {
  Size size;
  int32_t dtype = BATCHNORM_FLOAT, activation = BATCHNORM_NONE;
  bool residual = false, signs = false, affine = true, low = true, running = false;
  bool constant = false;                              // evaluate, and its backward
  bool input = true, residual_grad = true, vectors = true;  // which gradients are wanted
  double mean = 3, deviation = 0.5;                   // of x
  double last = 0;                                    // if not 0, the last value of x
};

extern const Options *at_work;
extern int failures;

inline void describe(const char *what, const Options &o) {
  std::printf("%s: %s: (%lld, %lld, %lld), dtype %d, activation %d,%s%s%s%s%s%s mean %g\n", batchnorm_instructions(),
              what, static_cast<long long>(o.size.outer), static_cast<long long>(o.size.channels),
              static_cast<long long>(o.size.inner), o.dtype, o.activation, o.residual ? " residual," : "",
              o.signs ? " signs," : "", o.affine ? "" : " no weight and bias,", o.low ? "" : " no low mean,",
              o.running ? " running," : "", o.constant ? " constant," : "", o.mean);
}

// One line a problem is enough.
inline bool check(bool good, const char *what, const Options &options) {
  if (!good && (failures++ < 50)) describe(what, options);
  return good;
}

struct Problem {
  const Options options;
  const int64_t channels = options.size.channels, inner = options.size.inner, count = options.size.outer * inner;
  const int64_t all = count * channels;
  const Guarded::Page page;  // of this side is the forbidden page
  Values x = tensor(), residual = tensor(), grad = tensor(), weight = vector(), bias = vector();
  Values y = tensor(), grad_input = tensor(), grad_residual = tensor(), grad_weight = vector(), grad_bias = vector();
  Values mean = vector(), low = vector(), var = vector(), invstd = vector();
  Values running_mean = vector(), running_var = vector();
  Guarded signs{options.signs ? 2 * words() : 0, page};

  Problem(const Options &o, Guarded::Page p) : options(o), page(p) {
    Random random(static_cast<uint64_t>(all + 31 * channels));
    for (int64_t i = 0; i < all; ++i) {
      x.set(i, o.mean + o.deviation * random.next());
      residual.set(i, random.next());
      grad.set(i, random.next() + 0.1);
    }
    if (o.last != 0 && all > 0) x.set(all - 1, o.last);
    for (int64_t c = 0; c < channels; ++c) {
      weight.set(c, c % 5 == 4 ? 0 : 1 + random.next());
      bias.set(c, random.next());
      running_mean.set(c, o.mean + random.next() / 4), running_var.set(c, 0.1 + c % 3);
    }
    for (Values *v : {&x, &residual, &grad, &weight, &bias}) v->memory().lock();
    if (o.constant) running_mean.memory().lock(), running_var.memory().lock();
  }

  int64_t at(int64_t channel, int64_t k) const { return (k / inner * channels + channel) * inner + k % inner; }
  int64_t words() const {
    return batchnorm_sign_words(options.size.outer, channels, inner, options.dtype);
  }

  batchnorm_call call(int32_t threads, batchnorm_parallel_for parallel_for) const {
    const Options &o = options;
    batchnorm_call c = {};
    c.outer = o.size.outer, c.channels = channels, c.inner = inner, c.dtype = o.dtype, c.activation = o.activation;
    c.threads = threads, c.constant = o.constant, c.eps = 1e-5, c.momentum = 0.25, c.parallel_for = parallel_for;
    c.x = x.data(), c.residual = o.residual ? residual.data() : nullptr;
    c.weight = o.affine ? weight.floats() : nullptr, c.bias = o.affine ? bias.floats() : nullptr;
    c.mean = mean.floats(), c.mean_low = o.low ? low.floats() : nullptr;
    c.var = var.floats(), c.invstd = invstd.floats();
    if (o.running || o.constant) c.running_mean = running_mean.floats(), c.running_var = running_var.floats();
    c.signs = o.signs ? signs.as<uint16_t>() : nullptr, c.y = y.data(), c.grad_output = grad.data();
    c.grad_input = o.input ? grad_input.data() : nullptr;
    c.grad_residual = o.residual_grad ? grad_residual.data() : nullptr;
    c.grad_weight = o.vectors ? grad_weight.floats() : nullptr;
    c.grad_bias = o.vectors ? grad_bias.floats() : nullptr;
    return c;
  }

  std::vector<const Guarded *> outputs() const {
    return {&y.memory(),   &grad_input.memory(), &grad_residual.memory(), &grad_weight.memory(),  &grad_bias.memory(),
            &mean.memory(), &low.memory(),       &var.memory(),           &invstd.memory(),       &signs,
            &running_mean.memory(), &running_var.memory()};
  }

 private:
  Values tensor() const { return Values(all, options.dtype, page); }
  Values vector() const { return Values(channels, BATCHNORM_FLOAT, page); }
};

}  // namespace test
