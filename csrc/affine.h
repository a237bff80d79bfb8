// The vectors of a call, and what the passes make of them for one channel.
#pragma once

#include "batchnorm_cpu.h"

namespace batchnorm {
namespace {

// z = (x - mean) * scale + offset. The same in the forward and the backward pass to the last bit, for the sign of z.
struct Affine {
  float mean, scale, offset;
};

inline double low_of(const batchnorm_call &call, int64_t channel) {
  return call.mean_low == nullptr ? 0 : double{call.mean_low[channel]};
}

inline Affine affine_of(const batchnorm_call &call, int64_t channel) {
  const float invstd = call.invstd[channel];
  const float scale = call.weight == nullptr ? invstd : invstd * call.weight[channel];
  const double shift = call.bias == nullptr ? 0 : double{call.bias[channel]};
  return {call.mean[channel], scale, static_cast<float>(shift - low_of(call, channel) * double{scale})};
}

}  // namespace
}  // namespace batchnorm
