// The activations with the defaults of torch.nn: value at z, and gradient g times the slope at z.
#pragma once

#include "batchnorm_cpu.h"
#include "elementary.h"

namespace batchnorm {
namespace {

struct None {
  static constexpr bool linear = true;
  explicit None(int32_t) {}
  template <class V>
  V value(V z) const {
    return z;
  }
  template <class V>
  auto sign(V z) const {
    return greater(z, V::zero());
  }
  template <class V>
  V gradient(V g, V) const {
    return g;
  }
};

struct Relu {
  static constexpr bool linear = false;
  explicit Relu(int32_t) {}
  template <class V>
  V value(V z) const {
    return maximum(V::zero(), z);
  }
  template <class V>
  V gradient(V g, V z) const {
    return gradient(g, sign(z));
  }
  // Where the gradient passes: at NaN too, as in torch.
  template <class V>
  auto sign(V z) const {
    return exceeds(z, V::zero());
  }
  template <class V>
  V gradient(V g, typename V::Mask positive) const {
    return select(positive, g, V::zero());
  }
};

template <class V>
V leaky(V g, typename V::Mask positive) {
  return select(positive, g, g * constant<V>(0.01));
}

template <class V>
V normal_distribution(V z) {
  const V half = constant<V>(0.5);
  return fma(half, error_function(z * constant<V>(0.70710678118654752)), half);
}

template <class V>
V hard_gradient(V g, V z) {
  const V three = constant<V>(3), slope = z / three + constant<V>(0.5);
  const V inside = select(greater(z, V::zero() - three), g * slope, V::zero());
  return select(greater(three, z), inside, g);
}

// Not inlined: a copy of all of them in every loop would take the compiler minutes, and the call is short beside them.
template <class V>
BATCHNORM_APART V curved_value(V z, int32_t activation) {
  const V zero = V::zero();
  switch (activation) {
    case BATCHNORM_LEAKY_RELU: return leaky(z, greater(z, zero));
    case BATCHNORM_ELU: return select(greater(z, zero), z, exponential_minus_one(minimum(zero, z)));
    case BATCHNORM_SILU: return z * sigmoid(z);
    case BATCHNORM_GELU: return z * normal_distribution(z);
    case BATCHNORM_HARDSWISH: {
      const V six = constant<V>(6);
      return z * minimum(six, maximum(zero, z + constant<V>(3))) / six;
    }
    case BATCHNORM_SIGMOID: return sigmoid(z);
    case BATCHNORM_TANH: return hyperbolic_tangent(z);
    default: return z;
  }
}

template <class V>
BATCHNORM_APART V curved_gradient(V g, V z, int32_t activation) {
  const V zero = V::zero(), one = constant<V>(1);
  switch (activation) {
    case BATCHNORM_LEAKY_RELU: return leaky(g, greater(z, zero));
    case BATCHNORM_ELU: return select(greater(z, zero), g, g * exponential(minimum(zero, z)));
    case BATCHNORM_SILU: {
      const V s = sigmoid(z);
      return g * s * fma(z, one - s, one);
    }
    case BATCHNORM_GELU: {
      const V density = exponential(z * z * constant<V>(-0.5)) * constant<V>(0.39894228040143268);
      return g * fma(z, density, normal_distribution(z));
    }
    case BATCHNORM_HARDSWISH: return hard_gradient(g, z);
    case BATCHNORM_SIGMOID: {
      const V s = sigmoid(z);
      return g * s * (one - s);
    }
    case BATCHNORM_TANH: {
      const V t = hyperbolic_tangent(z);
      return g * (one - t * t);
    }
    default: return g;
  }
}

// All others.
class Curved {
 public:
  static constexpr bool linear = false;
  explicit Curved(int32_t activation) : activation_(activation) {}
  template <class V>
  V value(V z) const {
    return curved_value(z, activation_);
  }
  template <class V>
  V gradient(V g, V z) const {
    return curved_gradient(g, z, activation_);
  }
  // Only leaky_relu has signs.
  template <class V>
  auto sign(V z) const {
    return greater(z, V::zero());
  }
  template <class V>
  V gradient(V g, typename V::Mask positive) const {
    return leaky(g, positive);
  }

 private:
  int32_t activation_;
};

}  // namespace
}  // namespace batchnorm
