// The activations in double, by their definitions, and how far a kernel may be from them.
#pragma once

#include <cmath>

#include "batchnorm_cpu.h"

namespace test {

constexpr double float_roundoff = 0x1p-24;
// Roundings of one value on its way through a formula.
constexpr double few = 8 * float_roundoff;

inline double logistic(double z) { return 1 / (1 + std::exp(-z)); }
inline double normal(double z) { return std::erfc(-z / std::sqrt(2.0)) / 2; }

inline double value(int32_t activation, double z) {
  switch (activation) {
    case BATCHNORM_RELU: return z > 0 ? z : 0;
    case BATCHNORM_LEAKY_RELU: return z > 0 ? z : 0.01 * z;
    case BATCHNORM_ELU: return z > 0 ? z : std::expm1(z);
    case BATCHNORM_SILU: return z * logistic(z);
    case BATCHNORM_GELU: return z * normal(z);
    case BATCHNORM_HARDSWISH: return z * std::fmin(6, std::fmax(0, z + 3)) / 6;
    case BATCHNORM_SIGMOID: return logistic(z);
    case BATCHNORM_TANH: return std::tanh(z);
    default: return z;
  }
}

inline double slope(int32_t activation, double z) {
  switch (activation) {
    case BATCHNORM_RELU: return z > 0;
    case BATCHNORM_LEAKY_RELU: return z > 0 ? 1 : 0.01;
    case BATCHNORM_ELU: return z > 0 ? 1 : std::exp(z);
    case BATCHNORM_SILU: return logistic(z) * (1 + z * (1 - logistic(z)));
    case BATCHNORM_GELU: return normal(z) + z * std::exp(-z * z / 2) / std::sqrt(8 * std::atan(1.0));
    case BATCHNORM_HARDSWISH: return z <= -3 ? 0 : z >= 3 ? 1 : z / 3 + 0.5;
    case BATCHNORM_SIGMOID: return logistic(z) * (1 - logistic(z));
    case BATCHNORM_TANH: return 1 - std::tanh(z) * std::tanh(z);
    default: return 1;
  }
}

inline bool is_two_straight_pieces(int32_t activation) {
  return activation == BATCHNORM_RELU || activation == BATCHNORM_LEAKY_RELU;
}

// Of the value, where z itself is off by dz: no slope exceeds 1.2.
inline double value_error(int32_t activation, double z, double dz) {
  return activation == BATCHNORM_NONE ? dz : 1.2 * dz + few * (1 + std::fabs(z));
}

// Of the slope: no second derivative exceeds 1, but hardswish has steps of a half.
inline double slope_error(int32_t activation, double z, double dz) {
  if (activation == BATCHNORM_NONE || is_two_straight_pieces(activation)) return 0;
  const bool step = activation == BATCHNORM_HARDSWISH && std::fabs(std::fabs(z) - 3) <= dz;
  return (step ? 0.5 : 0) + dz + few * (1 + std::fabs(z));
}

}  // namespace test
