// Vectors in AVX-512 (F, BW, DQ, VL).
#pragma once

#include <immintrin.h>

#include "simd.h"

namespace batchnorm::avx512 {
namespace {

struct Part {
  __mmask16 mask;
  explicit Part(int64_t count) : mask(static_cast<__mmask16>((1u << count) - 1)) {}
};

struct Mask {
  __mmask16 mask;
  uint16_t bits() const { return mask; }
  static Mask of(uint16_t bits) { return {bits}; }
};

// The last values of a vector that is there as a whole.
struct Last {
  __mmask16 mask;
  explicit Last(int64_t count) : mask(static_cast<__mmask16>(0xffff0000u >> count)) {}
};

struct Double {
  static constexpr int lanes = 8;
  __m512d v;

  static Double zero() { return {_mm512_setzero_pd()}; }
  static Double set(double a) { return {_mm512_set1_pd(a)}; }
  static Double load(const double *p, Full) { return {_mm512_loadu_pd(p)}; }
  void store(double *p, Full) const { _mm512_storeu_pd(p, v); }
  double sum() const { return _mm512_reduce_add_pd(v); }
};

inline Double operator+(Double a, Double b) { return {_mm512_add_pd(a.v, b.v)}; }
inline Double operator-(Double a, Double b) { return {_mm512_sub_pd(a.v, b.v)}; }
inline Double operator*(Double a, Double b) { return {_mm512_mul_pd(a.v, b.v)}; }
inline Double fma(Double a, Double b, Double c) { return {_mm512_fmadd_pd(a.v, b.v, c.v)}; }

struct Float {
  using Wide = Double;
  using Mask = avx512::Mask;
  using Part = avx512::Part;
  using Last = avx512::Last;
  static constexpr int lanes = 16;
  __m512 v;

  static Float zero() { return {_mm512_setzero_ps()}; }
  static Float set(float a) { return {_mm512_set1_ps(a)}; }
  static Float load(const float *p, Full) { return {_mm512_loadu_ps(p)}; }
  static Float load(const float *p, Part part) { return {_mm512_maskz_loadu_ps(part.mask, p)}; }
  static Float load(const Bfloat16 *p, Full) { return from(_mm256_loadu_si256(reinterpret_cast<const __m256i *>(p))); }
  static Float load(const Bfloat16 *p, Part part) { return from(_mm256_maskz_loadu_epi16(part.mask, p)); }
  template <class T>
  static Float load(const T *p, Last) {
    return load(p, Full());
  }
  void store(float *p, Full) const { _mm512_storeu_ps(p, v); }
  void store(float *p, Part part) const { _mm512_mask_storeu_ps(p, part.mask, v); }
  void store(Bfloat16 *p, Full) const { _mm256_storeu_si256(reinterpret_cast<__m256i *>(p), half()); }
  void store(Bfloat16 *p, Part part) const { _mm256_mask_storeu_epi16(p, part.mask, half()); }
  void stream(float *p) const { _mm512_stream_ps(p, v); }
  void stream(Bfloat16 *p) const { _mm256_stream_si256(reinterpret_cast<__m256i *>(p), half()); }
  template <int K>
  Double wide() const {
    return {_mm512_cvtps_pd(_mm512_extractf32x8_ps(v, K))};
  }

 private:
  static Float from(__m256i bits) {
    return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16))};
  }

  // To nearest, ties to even; NaN stays NaN.
  __m256i half() const {
    const __m512i bits = _mm512_castps_si512(v);
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    const __m512i rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
    const __mmask16 nan = _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
    const __m512i all = _mm512_mask_mov_epi32(rounded, nan, _mm512_set1_epi32(0x7fc00000));
    return _mm512_cvtepi32_epi16(_mm512_srli_epi32(all, 16));
  }
};

inline Float operator+(Float a, Float b) { return {_mm512_add_ps(a.v, b.v)}; }
inline Float operator-(Float a, Float b) { return {_mm512_sub_ps(a.v, b.v)}; }
inline Float operator*(Float a, Float b) { return {_mm512_mul_ps(a.v, b.v)}; }
inline Float operator/(Float a, Float b) { return {_mm512_div_ps(a.v, b.v)}; }
inline Float fma(Float a, Float b, Float c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
inline Float maximum(Float a, Float b) { return {_mm512_max_ps(a.v, b.v)}; }
inline Float minimum(Float a, Float b) { return {_mm512_min_ps(a.v, b.v)}; }
inline Mask greater(Float a, Float b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_GT_OQ)}; }
inline Mask exceeds(Float a, Float b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_NLE_UQ)}; }
inline Float select(Mask m, Float a, Float b) { return {_mm512_mask_blend_ps(m.mask, b.v, a.v)}; }
inline Float keep(Float a, Full) { return a; }
inline Float keep(Float a, Part part) { return {_mm512_maskz_mov_ps(part.mask, a.v)}; }
inline Float keep(Float a, Last part) { return {_mm512_maskz_mov_ps(part.mask, a.v)}; }
inline Float nearest(Float a) { return {_mm512_roundscale_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)}; }
inline Float power_of_two(Float a, Float n) { return {_mm512_scalef_ps(a.v, n.v)}; }

struct Isa {
  using Float = avx512::Float;
  // Vectors in flight: of a sum along a plane, and columns of rows whose constants fit the 32 registers.
  static constexpr int chains = 4;
  static constexpr int columns = 4;
};

}  // namespace
}  // namespace batchnorm::avx512
