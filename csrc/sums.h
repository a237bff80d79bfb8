// Two sums at once: in the lanes of a vector for a block of values, in double from block to block.
#pragma once

#include "simd.h"

namespace batchnorm {
namespace {

// Values of one lane that are added in the precision of the vector before they go to double.
constexpr int64_t block_depth = 128;

// Lanes in double: what blocks of V are folded into.
template <class V>
struct WideSums {
  using Wide = typename V::Wide;
  static constexpr int parts = V::lanes / Wide::lanes;
  Wide first[parts] = {Wide::zero(), Wide::zero()}, second[parts] = {Wide::zero(), Wide::zero()};

  void operator+=(const WideSums &other) {
    for (int k = 0; k < parts; ++k) {
      first[k] = first[k] + other.first[k];
      second[k] = second[k] + other.second[k];
    }
  }

  // Add every lane to its own pair of totals.
  void add_to(double *to_first, double *to_second) const {
    for (int k = 0; k < parts; ++k, to_first += Wide::lanes, to_second += Wide::lanes) {
      (Wide::load(to_first, Full()) + first[k]).store(to_first, Full());
      (Wide::load(to_second, Full()) + second[k]).store(to_second, Full());
    }
  }

  // Add all lanes to one pair of totals.
  void add_all_to(double *to_first, double *to_second) const {
    *to_first += (first[0] + first[1]).sum();
    *to_second += (second[0] + second[1]).sum();
  }
};

template <class V>
struct Sums {
  V first = V::zero(), second = V::zero();

  void operator+=(const Sums &other) {
    first = first + other.first;
    second = second + other.second;
  }

  void add_to(double *to_first, double *to_second) const { widened().add_to(to_first, to_second); }
  void add_all_to(double *to_first, double *to_second) const { widened().add_all_to(to_first, to_second); }

 private:
  WideSums<V> widened() const {
    WideSums<V> wide;
    wide.first[0] = first.template wide<0>();
    wide.first[1] = first.template wide<1>();
    wide.second[0] = second.template wide<0>();
    wide.second[1] = second.template wide<1>();
    return wide;
  }
};

}  // namespace
}  // namespace batchnorm
