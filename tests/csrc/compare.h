// What the kernels give against the formulas in double. Each tolerance is a bound on the roundings of one formula:
// `few` for a value on its way, `summed` for a sum, both relative to what is rounded.
#pragma once

#include "problem.h"

namespace test {

// A lane adds at most 128 values in float before they go to double; four standard deviations of such a sum.
constexpr double summed = 4 * 11.4 * float_roundoff;
// What is promised of the statistics, relative to the standard deviation and the variance.
constexpr double promised = 1e-5;
// Of normal floats; what is less may be 0.
constexpr double smallest = 0x1p-126;

inline bool near(double found, double expected, double tolerance) { return std::fabs(found - expected) <= tolerance; }

// A channel: what the kernel has found to be its statistics serves the formulas of the outputs.
struct Channel {
  const Problem &p;
  const int64_t c;
  const double weight = p.options.affine ? p.weight[c] : 1, bias = p.options.affine ? p.bias[c] : 0;
  const double mean = p.mean[c] + (p.options.low ? p.low[c] : 0), invstd = p.invstd[c];
  const double low_error = p.options.low ? 0 : float_roundoff * std::fabs(mean) * invstd;
  const double n = static_cast<double>(p.count);
  double sum = 0, dot = 0, sum_error = 0, dot_error = 0;

  double normalized(int64_t i) const { return (p.x[i] - mean) * invstd; }
  double residual(int64_t i) const { return p.options.residual ? p.residual[i] : 0; }
  double before(int64_t i) const { return normalized(i) * weight + bias + residual(i); }
  double before_error(int64_t i) const {
    const double scaled = std::fabs(normalized(i) * weight);
    return few * (scaled + std::fabs(bias) + std::fabs(residual(i))) + low_error * std::fabs(weight);
  }
  double rounded(double value) const {
    return p.options.dtype == BATCHNORM_FLOAT ? 0 : roundoff(p.options.dtype) * std::fabs(value);
  }
  // The side on which the output lies decides: forward and backward must not disagree.
  double gradient(int64_t i) const {
    const int32_t activation = p.options.activation;
    const double z = is_two_straight_pieces(activation) ? p.y[i] : before(i);
    return p.grad[i] * slope(activation, z);
  }
  double gradient_error(int64_t i) const {
    return std::fabs(p.grad[i]) * (slope_error(p.options.activation, before(i), before_error(i)) + few);
  }

  void check_statistics() const;
  void check_running(double old_mean, double old_var) const;
  void check_output() const;
  void add_gradients();
  void check_vectors() const;
  void check_gradients() const;
};

inline void Channel::check_statistics() const {
  // From the first value on, so that a constant channel is exact here too.
  const double first = p.x[p.at(c, 0)];
  double m = first, v = 0;
  for (int64_t k = 0; k < p.count; ++k) m += (p.x[p.at(c, k)] - first) / n;
  for (int64_t k = 0; k < p.count; ++k) v += std::pow(p.x[p.at(c, k)] - m, 2) / n;
  const double deviation = std::sqrt(v), lost = (p.options.low ? 1e-14 : float_roundoff) * std::fabs(m);
  check(near(mean, m, promised * deviation + lost), "mean", p.options);
  check(near(p.var[c], v, promised * v + smallest), "var", p.options);
  const double expected = 1 / std::sqrt(p.var[c] + 1e-5);
  check(near(invstd, expected, 2 * float_roundoff * expected), "invstd", p.options);
}

inline void Channel::check_running(double old_mean, double old_var) const {
  const double new_mean = 0.75 * old_mean + 0.25 * mean, new_var = 0.75 * old_var + 0.25 * p.var[c] * n / (n - 1);
  check(near(p.running_mean[c], new_mean, few * std::fabs(new_mean) + low_error), "running_mean", p.options);
  check(near(p.running_var[c], new_var, few * new_var), "running_var", p.options);
}

inline void Channel::check_output() const {
  for (int64_t k = 0; k < p.count; ++k) {
    const int64_t i = p.at(c, k);
    const double z = before(i), expected = value(p.options.activation, z);
    const double tolerance = value_error(p.options.activation, z, before_error(i));
    if (!check(near(p.y[i], expected, tolerance + rounded(expected)), "y", p.options)) return;
  }
}

inline void Channel::add_gradients() {
  for (int64_t k = 0; k < p.count; ++k) {
    const int64_t i = p.at(c, k);
    const double g = gradient(i), xhat = normalized(i), error = gradient_error(i) + summed * std::fabs(g);
    sum += g, dot += g * xhat;
    sum_error += error, dot_error += error * (std::fabs(xhat) + low_error) + std::fabs(g) * low_error;
  }
}

inline void Channel::check_vectors() const {
  check(near(p.grad_bias[c], sum, sum_error + float_roundoff * std::fabs(sum)), "grad_bias", p.options);
  check(near(p.grad_weight[c], dot, dot_error + few * std::fabs(dot)), "grad_weight", p.options);
}

inline void Channel::check_gradients() const {
  const double a = p.options.constant ? 0 : sum / n, b = p.options.constant ? 0 : dot / n;
  const double da = p.options.constant ? 0 : sum_error / n, db = p.options.constant ? 0 : dot_error / n;
  for (int64_t k = 0; k < p.count; ++k) {
    const int64_t i = p.at(c, k);
    const double g = gradient(i), dg = gradient_error(i), xhat = normalized(i), scale = weight * invstd;
    const double dx = (g - a - xhat * b) * scale;
    const double sizes = few * (std::fabs(g) + std::fabs(a) + std::fabs(xhat * b)) + low_error * std::fabs(b);
    const double tolerance = (dg + da + std::fabs(xhat) * db + sizes) * std::fabs(scale);
    if (p.options.input && !check(near(p.grad_input[i], dx, tolerance + rounded(dx)), "grad_input", p.options)) return;
    const bool kept = !p.options.residual_grad || near(p.grad_residual[i], g, dg + rounded(g));
    if (!check(kept, "grad_residual", p.options)) return;
  }
}

}  // namespace test
