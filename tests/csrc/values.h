// Tensors and vectors of the test, of either type, read and written as double.
#pragma once

#include <cmath>

#include "batchnorm_cpu.h"
#include "guarded.h"

namespace test {

// Half of the distance from 1 to the next number.
inline double roundoff(int32_t dtype) { return dtype == BATCHNORM_BFLOAT16 ? 0x1p-8 : 0x1p-24; }

inline uint16_t to_bfloat16(float value) {
  uint32_t bits = 0;
  std::memcpy(&bits, &value, sizeof bits);
  if (std::isnan(value)) return 0x7fc0;
  return static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

inline float from_bfloat16(uint16_t half) {
  const uint32_t bits = static_cast<uint32_t>(half) << 16;
  float value = 0;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

class Values {
 public:
  Values(int64_t count, int32_t dtype, Guarded::Page page)
      : count_(count), dtype_(dtype), memory_(count * (dtype == BATCHNORM_BFLOAT16 ? 2 : 4), page) {}

  int64_t count() const { return count_; }
  void *data() const { return memory_.data(); }
  float *floats() const { return memory_.as<float>(); }
  Guarded &memory() { return memory_; }
  const Guarded &memory() const { return memory_; }

  double operator[](int64_t i) const {
    return dtype_ == BATCHNORM_BFLOAT16 ? from_bfloat16(memory_.as<uint16_t>()[i]) : memory_.as<float>()[i];
  }
  void set(int64_t i, double value) {
    if (dtype_ == BATCHNORM_BFLOAT16) {
      memory_.as<uint16_t>()[i] = to_bfloat16(static_cast<float>(value));
    } else {
      memory_.as<float>()[i] = static_cast<float>(value);
    }
  }

 private:
  int64_t count_;
  int32_t dtype_;
  Guarded memory_;
};

// The same numbers on every machine; uniform in [-1, 1).
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed * 0x9e3779b97f4a7c15u + 1) {}
  double next() {
    state_ = state_ * 6364136223846793005u + 1442695040888963407u;
    return static_cast<double>(static_cast<int64_t>(state_) >> 11) * 0x1p-52;
  }

 private:
  uint64_t state_;
};

}  // namespace test
