// Vectors in AVX2 and FMA: each is two registers.
#pragma once

#include <immintrin.h>

#include "simd.h"

namespace batchnorm::avx2 {
namespace {

// 16 lanes of a sliding window over these are the first or the last ones of a vector.
alignas(64) inline constexpr int32_t window[48] = {0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,
                                                   -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1};

inline __m256i window_at(int64_t i) { return _mm256_loadu_si256(reinterpret_cast<const __m256i *>(window + i)); }

struct Part {
  int64_t count;
  explicit Part(int64_t n) : count(n) {}
  __m256i mask(int half) const { return window_at(32 - count + 8 * half); }
};

// The last values of a vector that is there as a whole.
struct Last {
  int64_t count;
  explicit Last(int64_t n) : count(n) {}
  __m256i mask(int half) const { return window_at(count + 8 * half); }
};

struct Double {
  static constexpr int lanes = 8;
  __m256d a, b;

  static Double zero() { return {_mm256_setzero_pd(), _mm256_setzero_pd()}; }
  static Double set(double x) { return {_mm256_set1_pd(x), _mm256_set1_pd(x)}; }
  static Double load(const double *p, Full) { return {_mm256_loadu_pd(p), _mm256_loadu_pd(p + 4)}; }
  void store(double *p, Full) const { _mm256_storeu_pd(p, a), _mm256_storeu_pd(p + 4, b); }
  double sum() const {
    const __m256d four = _mm256_add_pd(a, b);
    const __m128d two = _mm_add_pd(_mm256_castpd256_pd128(four), _mm256_extractf128_pd(four, 1));
    return _mm_cvtsd_f64(_mm_add_sd(two, _mm_unpackhi_pd(two, two)));
  }
};

inline Double operator+(Double x, Double y) { return {_mm256_add_pd(x.a, y.a), _mm256_add_pd(x.b, y.b)}; }
inline Double operator-(Double x, Double y) { return {_mm256_sub_pd(x.a, y.a), _mm256_sub_pd(x.b, y.b)}; }
inline Double operator*(Double x, Double y) { return {_mm256_mul_pd(x.a, y.a), _mm256_mul_pd(x.b, y.b)}; }
inline Double fma(Double x, Double y, Double z) {
  return {_mm256_fmadd_pd(x.a, y.a, z.a), _mm256_fmadd_pd(x.b, y.b, z.b)};
}

struct Float {
  using Wide = Double;
  using Part = avx2::Part;
  using Last = avx2::Last;
  static constexpr int lanes = 16;
  __m256 a, b;

  struct Mask {
    __m256 a, b;
    uint16_t bits() const { return static_cast<uint16_t>(_mm256_movemask_ps(a) | _mm256_movemask_ps(b) << 8); }
    static Mask of(uint16_t bits) { return {spread(bits), spread(bits >> 8)}; }

   private:
    static __m256 spread(int bits) {
      const __m256i bit = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
      return _mm256_castsi256_ps(_mm256_cmpeq_epi32(_mm256_and_si256(_mm256_set1_epi32(bits), bit), bit));
    }
  };

  static Float zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
  static Float set(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
  static Float load(const float *p, Full) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
  static Float load(const float *p, Part part) {
    return {_mm256_maskload_ps(p, part.mask(0)), _mm256_maskload_ps(p + 8, part.mask(1))};
  }
  static Float load(const Bfloat16 *p, Full) {
    const __m128i *halves = reinterpret_cast<const __m128i *>(p);
    return {from(_mm_loadu_si128(halves)), from(_mm_loadu_si128(halves + 1))};
  }
  // There are no masks for 16 bits.
  static Float load(const Bfloat16 *p, Part part) {
    Bfloat16 whole[16] = {};
    for (int64_t i = 0; i < part.count; ++i) whole[i] = p[i];
    return load(whole, Full());
  }
  template <class T>
  static Float load(const T *p, Last) {
    return load(p, Full());
  }
  void store(float *p, Full) const { _mm256_storeu_ps(p, a), _mm256_storeu_ps(p + 8, b); }
  void store(float *p, Part part) const {
    _mm256_maskstore_ps(p, part.mask(0), a);
    _mm256_maskstore_ps(p + 8, part.mask(1), b);
  }
  void store(Bfloat16 *p, Full) const { _mm256_storeu_si256(reinterpret_cast<__m256i *>(p), half()); }
  void store(Bfloat16 *p, Part part) const {
    Bfloat16 whole[16];
    store(whole, Full());
    for (int64_t i = 0; i < part.count; ++i) p[i] = whole[i];
  }
  void stream(float *p) const { _mm256_stream_ps(p, a), _mm256_stream_ps(p + 8, b); }
  void stream(Bfloat16 *p) const { _mm256_stream_si256(reinterpret_cast<__m256i *>(p), half()); }
  template <int K>
  Double wide() const {
    const __m256 v = K == 0 ? a : b;
    return {_mm256_cvtps_pd(_mm256_castps256_ps128(v)), _mm256_cvtps_pd(_mm256_extractf128_ps(v, 1))};
  }

 private:
  static __m256 from(__m128i bits) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
  }

  // To nearest, ties to even; NaN stays NaN.
  static __m256i half(__m256 v) {
    const __m256i bits = _mm256_castps_si256(v);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    const __m256i rounded = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
    const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(v, v, _CMP_UNORD_Q));
    return _mm256_srli_epi32(_mm256_blendv_epi8(rounded, _mm256_set1_epi32(0x7fc00000), nan), 16);
  }
  __m256i half() const { return _mm256_permute4x64_epi64(_mm256_packus_epi32(half(a), half(b)), 0xd8); }
};

inline Float operator+(Float x, Float y) { return {_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)}; }
inline Float operator-(Float x, Float y) { return {_mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b)}; }
inline Float operator*(Float x, Float y) { return {_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)}; }
inline Float operator/(Float x, Float y) { return {_mm256_div_ps(x.a, y.a), _mm256_div_ps(x.b, y.b)}; }
inline Float fma(Float x, Float y, Float z) {
  return {_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)};
}
inline Float maximum(Float x, Float y) { return {_mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b)}; }
inline Float minimum(Float x, Float y) { return {_mm256_min_ps(x.a, y.a), _mm256_min_ps(x.b, y.b)}; }
inline Float::Mask greater(Float x, Float y) {
  return {_mm256_cmp_ps(x.a, y.a, _CMP_GT_OQ), _mm256_cmp_ps(x.b, y.b, _CMP_GT_OQ)};
}
inline Float::Mask exceeds(Float x, Float y) {
  return {_mm256_cmp_ps(x.a, y.a, _CMP_NLE_UQ), _mm256_cmp_ps(x.b, y.b, _CMP_NLE_UQ)};
}
inline Float select(Float::Mask m, Float x, Float y) {
  return {_mm256_blendv_ps(y.a, x.a, m.a), _mm256_blendv_ps(y.b, x.b, m.b)};
}
inline Float keep(Float x, Full) { return x; }
template <class Mask>
Float keep(Float x, Mask part) {
  return {_mm256_and_ps(x.a, _mm256_castsi256_ps(part.mask(0))),
          _mm256_and_ps(x.b, _mm256_castsi256_ps(part.mask(1)))};
}
inline Float nearest(Float x) {
  constexpr int mode = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
  return {_mm256_round_ps(x.a, mode), _mm256_round_ps(x.b, mode)};
}

// In two steps, so that neither factor overflows where the product does not; |n| < 252.
inline __m256 power_of_two(__m256 v, __m256 n) {
  const __m256i whole = _mm256_cvtps_epi32(n);
  const __m256i first = _mm256_srai_epi32(whole, 1);
  const __m256i second = _mm256_sub_epi32(whole, first);
  const __m256i bias = _mm256_set1_epi32(127);
  const __m256 by_first = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(first, bias), 23));
  const __m256 by_second = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(second, bias), 23));
  return _mm256_mul_ps(_mm256_mul_ps(v, by_first), by_second);
}
inline Float power_of_two(Float x, Float n) { return {power_of_two(x.a, n.a), power_of_two(x.b, n.b)}; }

struct Isa {
  using Float = avx2::Float;
  // Vectors in flight: of a sum along a plane, and columns of rows whose constants fit the 16 registers.
  static constexpr int chains = 2;
  static constexpr int columns = 2;
};

}  // namespace
}  // namespace batchnorm::avx2
