// Elementary functions of vectors of float, within 2 ulp.
#pragma once

#include "simd.h"

namespace batchnorm {
namespace {

template <class V>
V constant(double a) {
  return V::set(static_cast<float>(a));
}

// c[0] x^(K-1) + ... + c[K-1], by Horner's rule.
template <class V, int K>
V polynomial(V x, const double (&c)[K]) {
  V sum = constant<V>(c[0]);
  for (int k = 1; k < K; ++k) sum = fma(sum, x, constant<V>(c[k]));
  return sum;
}

template <class V>
V absolute(V x) {
  return maximum(x, V::zero() - x);
}

// x = n log 2 + f with e^f - 1 = p, for x clamped to where float has a result.
template <class V>
struct Exponent {
  V n, p;
  explicit Exponent(V x) {
    // Coefficients: Moshier, Cephes Mathematical Library, expf.
    x = minimum(constant<V>(89), maximum(constant<V>(-105), x));
    n = nearest(x * constant<V>(1.44269504088896341));
    const V f = fma(n, constant<V>(2.12194440e-4), fma(n, constant<V>(-0.693359375), x));
    const V q = polynomial(f, {1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2,
                               1.6666665459e-1, 5.0000001201e-1});
    p = fma(q, f * f, f);
  }
};

template <class V>
V exponential(V x) {
  const Exponent<V> e(x);
  return power_of_two(e.p + constant<V>(1), e.n);
}

// e^x - 1 without cancellation, for x <= 0.
template <class V>
V exponential_minus_one(V x) {
  const Exponent<V> e(x);
  const V scale = power_of_two(constant<V>(1), e.n);
  return fma(scale, e.p, scale - constant<V>(1));
}

template <class V>
V sigmoid(V x) {
  const V one = constant<V>(1);
  return one / (one + exponential(V::zero() - x));
}

template <class V>
V hyperbolic_tangent(V x) {
  const V e = exponential_minus_one(absolute(x) * constant<V>(-2));
  const V positive = (V::zero() - e) / (e + constant<V>(2));
  return select(greater(V::zero(), x), V::zero() - positive, positive);
}

template <class V>
V error_function(V x) {
  // Coefficients: N. Juffa, "Efficient implementation of erff", 1 ulp.
  // The polynomial leaves its range where the result is 1 anyway.
  const V t = minimum(constant<V>(4), absolute(x)), square = x * x;
  const V small = polynomial(square, {-5.96761703e-4, 4.99119423e-3, -2.67681349e-2, 1.12819925e-1,
                                      -3.76125336e-1, 1.28379166e-1});
  const V large = polynomial(t, {-1.72853470e-5, 3.83197126e-4, -3.88396438e-3, 2.42546219e-2,
                                 -1.06777877e-1, -6.34846687e-1, -1.28717512e-1});
  const V far = constant<V>(1) - exponential(fma(large, t, V::zero() - t));
  const V signed_far = select(greater(V::zero(), x), V::zero() - far, far);
  return select(greater(t, constant<V>(0.927734375)), signed_far, fma(small, x, x));
}

}  // namespace
}  // namespace batchnorm
