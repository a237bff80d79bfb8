// What the forward pass does to one vector: the sums behind the statistics, and the output.
#pragma once

#include "access.h"
#include "activation.h"

namespace batchnorm {
namespace {

// Ask for the line of memory at p, for the second-level cache. It need not exist.
inline void fetch(const void *p) { __builtin_prefetch(p, 0, 2); }

// Values in a line of memory.
template <class T>
constexpr int64_t line_of = 64 / sizeof(T);

// Past the caches, where asked to and possible: partial vectors are not.
template <class V, class T>
void put(V v, T *to, Full part, bool stream) {
  if (stream) {
    v.stream(to);
  } else {
    v.store(to, part);
  }
}

template <class V, class T, class Part>
void put(V v, T *to, Part part, bool) {
  v.store(to, part);
}

// Sums of x - shift and of its square.
template <class V, class T>
struct Moments {
  using Chain = Sums<V>;
  struct Constants {
    V shift;
  };
  static constexpr int64_t line = line_of<T>;
  const T *x;
  const float *shift;

  void prefetch(int64_t i) const { fetch(x + i); }

  template <class Pick>
  Constants constants(Pick pick) const {
    return {pick.template get<V>(shift)};
  }

  template <class P>
  void reduce(int64_t i, P part, const Constants &c, int64_t, Chain &sums) const {
    const V d = keep(V::load(x + i, part) - c.shift, part);
    sums.first = sums.first + d;
    sums.second = fma(d, d, sums.second);
  }
};

// The same in double, for channels where float is not enough.
template <class V, class T>
struct WideMoments {
  using Wide = typename V::Wide;
  using Chain = WideSums<V>;
  static constexpr int parts = Chain::parts;
  struct Constants {
    Wide shift[parts];
  };
  static constexpr int64_t line = line_of<T>;
  const T *x;
  const double *shift;

  void prefetch(int64_t i) const { fetch(x + i); }

  template <class Pick>
  Constants constants(Pick pick) const {
    Constants c;
    for (int k = 0; k < parts; ++k) c.shift[k] = pick.template get<Wide>(shift, k * Wide::lanes);
    return c;
  }

  template <class P>
  void reduce(int64_t i, P part, const Constants &c, int64_t, Chain &sums) const {
    const V values = V::load(x + i, part);
    const V there = keep(V::set(1), part);
    add<0>(values, there, c, sums);
    add<1>(values, there, c, sums);
  }

 private:
  template <int K>
  static void add(V values, V there, const Constants &c, Chain &sums) {
    const Wide d = (values.template wide<K>() - c.shift[K]) * there.template wide<K>();
    sums.first[K] = sums.first[K] + d;
    sums.second[K] = fma(d, d, sums.second[K]);
  }
};

// y = activation((x - mean) * scale + offset + residual)
template <class V, class T, class Activation>
struct Normalize {
  struct Constants {
    V mean, scale, offset;
  };
  static constexpr int64_t line = line_of<T>;
  const T *x, *residual;
  T *y;
  uint16_t *signs;
  bool stream;
  const float *mean, *scale, *offset;
  Activation activation;

  void prefetch(int64_t i) const {
    fetch(x + i);
    if (residual != nullptr) fetch(residual + i);
    if (!stream) fetch(y + i);
  }

  template <class Pick>
  Constants constants(Pick pick) const {
    return {pick.template get<V>(mean), pick.template get<V>(scale), pick.template get<V>(offset)};
  }

  template <class P>
  void apply(int64_t i, P part, const Constants &c, int64_t word) const {
    V z = fma(V::load(x + i, part) - c.mean, c.scale, c.offset);
    if (residual != nullptr) z = z + V::load(residual + i, part);
    if (signs != nullptr) signs[word] = activation.sign(z).bits();
    put(activation.value(z), y + i, part, stream);
  }
};

}  // namespace
}  // namespace batchnorm
