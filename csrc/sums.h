// Two sums at once: in the lanes of a vector for a block of values, in double from block to block.
#pragma once

#include "simd.h"

namespace batchnorm {
namespace {

// Values of one lane that are added in the precision of the vector before they go to double.
constexpr int64_t block_depth = 128;

template <class V>
struct Sums {
  V first = V::zero(), second = V::zero();

  void operator+=(const Sums &other) {
    first = first + other.first;
    second = second + other.second;
  }
};

// Lanes in double: what blocks of V are folded into.
template <class V>
struct WideSums {
  using Wide = typename V::Wide;
  static constexpr int parts = V::lanes / Wide::lanes;
  Sums<Wide> part[parts];

  void operator+=(const Sums<V> &sums) {
    add<0>(sums);
    if constexpr (parts > 1) add<1>(sums);
  }
  void operator+=(const WideSums &other) {
    for (int k = 0; k < parts; ++k) part[k] += other.part[k];
  }

  // Add every lane to its own pair of totals.
  void add_to(double *first, double *second) const {
    for (int k = 0; k < parts; ++k) {
      double *to_first = first + k * Wide::lanes, *to_second = second + k * Wide::lanes;
      (Wide::load(to_first, Full()) + part[k].first).store(to_first, Full());
      (Wide::load(to_second, Full()) + part[k].second).store(to_second, Full());
    }
  }

  // Add all lanes to one pair of totals.
  void add_all_to(double *first, double *second) const {
    Sums<Wide> all = part[0];
    for (int k = 1; k < parts; ++k) all += part[k];
    *first += all.first.sum();
    *second += all.second.sum();
  }

 private:
  template <int K>
  void add(const Sums<V> &sums) {
    part[K].first = part[K].first + sums.first.template wide<K>();
    part[K].second = part[K].second + sums.second.template wide<K>();
  }
};

}  // namespace
}  // namespace batchnorm
