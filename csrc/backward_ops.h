// What the backward pass does to one vector: the gradient before the activation, its sums, and the gradients.
#pragma once

#include "forward_ops.h"

namespace batchnorm {
namespace {

template <class V, class T, class Activation>
struct Gradient {
  const T *x, *residual, *grad_output;
  const uint16_t *signs;
  const float *mean, *scale, *offset;
  Activation activation;

  void prefetch(int64_t i) const {
    fetch(x + i);
    fetch(grad_output + i);
    if (!Activation::linear && signs == nullptr && residual != nullptr) fetch(residual + i);
  }

  // xmu = x - mean.
  template <class P>
  V at(int64_t i, P part, V xmu, V scale_, V offset_, int64_t word) const {
    const V g = V::load(grad_output + i, part);
    if constexpr (Activation::linear) {
      return g;
    } else {
      if (signs != nullptr) return activation.gradient(g, V::Mask::of(signs[word]));
      V z = fma(xmu, scale_, offset_);
      if (residual != nullptr) z = z + V::load(residual + i, part);
      return activation.gradient(g, z);
    }
  }
};

// Sums of the gradient g before the activation, and of g * (x - mean).
template <class V, class T, class Activation>
struct GradientSums {
  using Chain = Sums<V>;
  struct Constants {
    V mean, scale, offset;
  };
  static constexpr int64_t line = line_of<T>;
  Gradient<V, T, Activation> gradient;

  void prefetch(int64_t i) const { gradient.prefetch(i); }

  template <class Pick>
  Constants constants(Pick pick) const {
    return {pick.template get<V>(gradient.mean), pick.template get<V>(gradient.scale),
            pick.template get<V>(gradient.offset)};
  }

  template <class P>
  void reduce(int64_t i, P part, const Constants &c, int64_t word, Chain &sums) const {
    const V xmu = V::load(gradient.x + i, part) - c.mean;
    const V g = keep(gradient.at(i, part, xmu, c.scale, c.offset, word), part);
    sums.first = sums.first + g;
    sums.second = fma(g, xmu, sums.second);
  }
};

// grad_residual = g; grad_input = g * scale + (x - mean) * slope + shift.
template <class V, class T, class Activation>
struct GradientOutput {
  struct Constants {
    V mean, scale, offset, slope, shift;
  };
  Gradient<V, T, Activation> gradient;
  T *grad_input, *grad_residual;
  bool stream, constant;
  const float *slope, *shift;
  static constexpr int64_t line = line_of<T>;

  void prefetch(int64_t i) const {
    gradient.prefetch(i);
    if (stream) return;
    if (grad_input != nullptr) fetch(grad_input + i);
    if (grad_residual != nullptr) fetch(grad_residual + i);
  }

  template <class Pick>
  Constants constants(Pick pick) const {
    return {pick.template get<V>(gradient.mean), pick.template get<V>(gradient.scale),
            pick.template get<V>(gradient.offset), pick.template get<V>(slope), pick.template get<V>(shift)};
  }

  template <class P>
  void apply(int64_t i, P part, const Constants &c, int64_t word) const {
    const V xmu = V::load(gradient.x + i, part) - c.mean;
    const V g = gradient.at(i, part, xmu, c.scale, c.offset, word);
    if (grad_residual != nullptr) put(g, grad_residual + i, part, stream);
    if (grad_input == nullptr) return;
    // Not 0 * xmu, which is NaN where x is not finite.
    const V through_statistics = constant ? V::zero() : fma(xmu, c.slope, c.shift);
    put(fma(g, c.scale, through_statistics), grad_input + i, part, stream);
  }
};

}  // namespace
}  // namespace batchnorm
