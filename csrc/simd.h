// What the vectors of all instruction sets have in common.
//
// A vector type V has 16 lanes of float on every instruction set, so that results differ between them by fused
// multiplications only. All of its functions are found through their arguments:
//   V::zero(), V::set(a), V::load(p, part), v.store(p, part), v.stream(p)   p aligned for stream
//   a + b, a - b, a * b, a / b, fma(a, b, c) = a * b + c
//   maximum(a, b), minimum(a, b)                             b where a or b is NaN
//   greater(a, b) -> Mask, select(mask, a, b), a > b ? ...   false where a or b is NaN
//   exceeds(a, b) -> Mask                                   the same, but true where a or b is NaN
//   keep(v, part)                                            0 outside of the part
//   mask.bits(), V::Mask::of(bits)
//   v.wide<k>() -> V::Wide                                   the k-th 8 lanes in double
//   V::Wide only: v.sum()
//   float only: nearest(v), power_of_two(v, n) = v * 2^n
#pragma once

#include <cstdint>
#include <cstring>

// A function that loops over vectors: all it calls must be part of it, or the vectors go through memory. Where they are
// arrays anyway, or looked at by a sanitizer, it would only make the compiler slow.
#if defined(__AVX2__) && !defined(__SANITIZE_ADDRESS__)
#define BATCHNORM_LOOP __attribute__((flatten))
#else
#define BATCHNORM_LOOP
#endif

// A function that is called, even from there.
#define BATCHNORM_APART __attribute__((noinline))

namespace batchnorm {
namespace {

struct Bfloat16 {
  uint16_t bits;
};

inline float widened(float x) { return x; }
inline float widened(Bfloat16 x) {
  const uint32_t bits = static_cast<uint32_t>(x.bits) << 16;
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

// A whole vector, as opposed to an instruction set's Part of its first lanes.
struct Full {};

}  // namespace
}  // namespace batchnorm
