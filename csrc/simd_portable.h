// Vectors as loops over arrays, which any compiler can vectorize for any machine.
#pragma once

#include <cmath>
#include <cstring>

#include "simd.h"

namespace batchnorm::portable {
namespace {

struct Part {
  int64_t count;
  explicit Part(int64_t n) : count(n) {}
};

// The last values of a vector that is there as a whole.
struct Last {
  int64_t count;
  explicit Last(int64_t n) : count(n) {}
};

inline double widened(double x) { return x; }

// To nearest, ties to even; NaN stays NaN.
inline void narrow(float x, Bfloat16 *to) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  const uint32_t rounded = bits + 0x7fff + ((bits >> 16) & 1);
  to->bits = x != x ? 0x7fc0 : static_cast<uint16_t>(rounded >> 16);
}
inline void narrow(float x, float *to) { *to = x; }
inline void narrow(double x, double *to) { *to = x; }

template <class T, int L>
struct Vector {
  using Wide = Vector<double, 8>;
  using Part = portable::Part;
  using Last = portable::Last;
  static constexpr int lanes = L;
  T v[L];

  struct Mask {
    bool m[L];
    uint16_t bits() const {
      int all = 0;
      for (int i = 0; i < L; ++i) all |= m[i] << i;
      return static_cast<uint16_t>(all);
    }
    static Mask of(uint16_t bits) {
      Mask mask;
      for (int i = 0; i < L; ++i) mask.m[i] = bits >> i & 1;
      return mask;
    }
  };

  static Vector zero() { return set(0); }
  static Vector set(T a) {
    return lanewise([=](int) { return a; });
  }
  template <class U>
  static Vector load(const U *p, Full) {
    return lanewise([=](int i) { return widened(p[i]); });
  }
  template <class U>
  static Vector load(const U *p, Part part) {
    Vector r = zero();
    for (int64_t i = 0; i < part.count; ++i) r.v[i] = widened(p[i]);
    return r;
  }
  template <class U>
  static Vector load(const U *p, Last) {
    return load(p, Full());
  }
  template <class U>
  void store(U *p, Full) const {
    for (int i = 0; i < L; ++i) narrow(v[i], p + i);
  }
  template <class U>
  void store(U *p, Part part) const {
    for (int64_t i = 0; i < part.count; ++i) narrow(v[i], p + i);
  }
  template <class U>
  void stream(U *p) const {
    store(p, Full());
  }
  double sum() const {
    double four[4], all = 0;
    for (int i = 0; i < 4; ++i) four[i] = v[i] + v[i + 4];
    for (int i = 0; i < 4; ++i) all += four[i];
    return all;
  }
  template <int K>
  Wide wide() const {
    return Wide::lanewise([this](int i) { return static_cast<double>(v[8 * K + i]); });
  }
  template <class F>
  static Vector lanewise(F f) {
    Vector r;
    for (int i = 0; i < L; ++i) r.v[i] = f(i);
    return r;
  }

  friend Vector operator+(const Vector &a, const Vector &b) {
    return lanewise([&](int i) { return a.v[i] + b.v[i]; });
  }
  friend Vector operator-(const Vector &a, const Vector &b) {
    return lanewise([&](int i) { return a.v[i] - b.v[i]; });
  }
  friend Vector operator*(const Vector &a, const Vector &b) {
    return lanewise([&](int i) { return a.v[i] * b.v[i]; });
  }
  friend Vector operator/(const Vector &a, const Vector &b) {
    return lanewise([&](int i) { return a.v[i] / b.v[i]; });
  }
  // Not std::fma, which is a slow call where the machine has no such instruction.
  friend Vector fma(const Vector &a, const Vector &b, const Vector &c) { return a * b + c; }
  friend Vector maximum(const Vector &a, const Vector &b) {
    return lanewise([&](int i) { return a.v[i] > b.v[i] ? a.v[i] : b.v[i]; });
  }
  friend Vector minimum(const Vector &a, const Vector &b) {
    return lanewise([&](int i) { return a.v[i] < b.v[i] ? a.v[i] : b.v[i]; });
  }
  friend Mask greater(const Vector &a, const Vector &b) {
    Mask mask;
    for (int i = 0; i < L; ++i) mask.m[i] = a.v[i] > b.v[i];
    return mask;
  }
  friend Mask exceeds(const Vector &a, const Vector &b) {
    Mask mask;
    for (int i = 0; i < L; ++i) mask.m[i] = !(a.v[i] <= b.v[i]);
    return mask;
  }
  friend Vector select(const Mask &mask, const Vector &a, const Vector &b) {
    return lanewise([&](int i) { return mask.m[i] ? a.v[i] : b.v[i]; });
  }
  friend Vector keep(const Vector &a, Full) { return a; }
  friend Vector keep(const Vector &a, Part part) {
    return lanewise([&](int i) { return i < part.count ? a.v[i] : T(0); });
  }
  friend Vector keep(const Vector &a, Last part) {
    return lanewise([&](int i) { return i >= L - part.count ? a.v[i] : T(0); });
  }
  friend Vector nearest(const Vector &a) {
    return lanewise([&](int i) { return std::nearbyint(a.v[i]); });
  }
  friend Vector power_of_two(const Vector &a, const Vector &n) {
    return lanewise([&](int i) { return std::ldexp(a.v[i], static_cast<int>(n.v[i])); });
  }
};

struct Isa {
  using Float = Vector<float, 16>;
  static constexpr int chains = 1;
  static constexpr int columns = 1;
};

}  // namespace
}  // namespace batchnorm::portable
