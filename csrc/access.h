// What the two access patterns share.
//
// An access pattern cuts a tensor into groups of channels, and each group into chunks. Its slots are where the vectors
// (C,) are kept for it: one per channel, or one per column. The order in which a channel's values are added depends on
// the sizes alone: neither on the threads nor on how many channels are in a group.
#pragma once

#include <algorithm>
#include <utility>

#include "sums.h"

namespace batchnorm {
namespace {

constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
constexpr int64_t round_up(int64_t a, int64_t b) { return ceil_div(a, b) * b; }

// Constants of one channel, the same in all lanes.
struct Broadcast {
  int64_t slot;
  template <class V, class Scalar>
  V get(const Scalar *values, int64_t = 0) const {
    return V::set(values[slot]);
  }
};

// Constants of neighboring columns.
struct Columns {
  int64_t slot;
  template <class V, class Scalar>
  V get(const Scalar *values, int64_t offset = 0) const {
    return V::load(values + slot + offset, Full());
  }
};

template <int K>
using Index = std::integral_constant<int, K>;

template <class F, int... K>
inline void unrolled(F &&f, std::integer_sequence<int, K...>) {
  (f(Index<K>()), ...);
}

// f(Index<0>()), f(Index<1>()), ... f(Index<Count - 1>())
template <int Count, class F>
inline void unrolled(F &&f) {
  unrolled(std::forward<F>(f), std::make_integer_sequence<int, Count>());
}

}  // namespace
}  // namespace batchnorm
