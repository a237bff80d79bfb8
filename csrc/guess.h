// A value near the mean of a channel: subtracting it makes a large mean small, and a constant channel zeros.
#pragma once

#include <cmath>
#include <cstring>

#include "elementary.h"

namespace batchnorm {
namespace {

constexpr int64_t guess_values = 8;

// What a tensor of T can hold of a guess, so that the differences from it are exact where T is short.
template <class T>
float as(float guess) {
  if constexpr (sizeof(T) == sizeof(float)) return guess;
  uint32_t bits;
  std::memcpy(&bits, &guess, sizeof bits);
  bits &= 0xffff0000;
  std::memcpy(&guess, &bits, sizeof bits);
  return guess;
}

// The sum of values[0], ..., values[7] / 8, in an order that makes it exact where all are the same. Values that are not
// finite are of no use, nor is a sum that overflows.
inline float guess_mean(const float (&values)[guess_values]) {
  const float left = (values[0] + values[1]) + (values[2] + values[3]);
  const float mean = (left + ((values[4] + values[5]) + (values[6] + values[7]))) * 0.125f;
  if (std::isfinite(mean)) return mean;
  return std::isfinite(values[0]) ? values[0] : 0;
}

template <class V>
V finite_or(V v, V other) {
  return select(greater(constant<V>(1), v * V::zero()), v, other);
}

// The same of many channels.
template <class V>
V guess_mean(const V (&values)[guess_values]) {
  const V left = (values[0] + values[1]) + (values[2] + values[3]);
  const V mean = (left + ((values[4] + values[5]) + (values[6] + values[7]))) * constant<V>(0.125);
  return finite_or(mean, finite_or(values[0], V::zero()));
}

// The same of one channel of `count` values in memory; at(k) is the k-th. Few values are all near each other.
template <class F>
float guess_mean_of(int64_t count, F at) {
  float values[guess_values] = {};
  if (count == 0) return 0;
  for (int64_t i = 0; i < guess_values; ++i) values[i] = at(count < guess_values ? 0 : i * count / guess_values);
  return guess_mean(values);
}

}  // namespace
}  // namespace batchnorm
