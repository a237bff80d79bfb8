// The forward pass: statistics, and the output normalized by them or by given ones.
#pragma once

#include <atomic>
#include <cmath>
#include <limits>

#include "affine.h"
#include "caches.h"
#include "forward_ops.h"
#include "grid.h"
#include "instructions.h"

namespace batchnorm {
namespace {

template <class Access, class V, class T, class Activation>
class Forward {
 public:
  static int32_t run(const batchnorm_call &call, const Access &access, Task task) {
    Parallel parallel(call, access.count() * access.channels());
    const int64_t partials = task == Task::normalize ? 0 : Grid<Access>::partial_doubles(access);
    Scratch scratch(4, access.slots(), sizeof(float), access.slots() + access.channels() + 2 * V::lanes + partials);
    if (scratch.missing()) return BATCHNORM_OUT_OF_MEMORY;
    Forward forward(call, access, parallel, scratch);
    forward.run(task);
    return forward.status();
  }

 private:
  Forward(const batchnorm_call &call, const Access &access, Parallel &parallel, Scratch &scratch)
      : call_(call),
        access_(access),
        shift_(scratch.vector<float>()),
        mean_(scratch.vector<float>()),
        scale_(scratch.vector<float>()),
        offset_(scratch.vector<float>()),
        wide_shift_(scratch.doubles(access.slots())),
        variance_(scratch.doubles(access.channels())),
        weight_(1 / std::max(1.0, static_cast<double>(access.count()))),
        grid_(access, parallel, scratch.doubles(0)) {}

  void run(Task task) {
    const int64_t bytes = access_.count() * access_.channels() * int64_t{sizeof(T)};
    const Normalize<V, T, Activation> normalize{x(),
                                                static_cast<const T *>(call_.residual),
                                                static_cast<T *>(call_.y),
                                                call_.signs,
                                                access_.is_aligned() && can_stream(2 * bytes, call_.y),
                                                mean_,
                                                scale_,
                                                offset_,
                                                Activation(call_.activation)};
    grid_.run(
        [&](int64_t group) {
          if (task != Task::normalize) measure(group);
          if (task != Task::stats) prepare(group);
        },
        [&](int64_t group, int64_t chunk) {
          if (task != Task::stats) access_.apply(normalize, group, chunk);
        });
  }

  int32_t status() const {
    if (grid_.failed()) return BATCHNORM_PARALLEL_FAILED;
    return finite_ ? BATCHNORM_OK : BATCHNORM_NOT_FINITE;
  }

  void measure(int64_t group) {
    access_.guess_means(x(), group, shift_);
    grid_.reduce(Moments<V, T>{x(), shift_}, group);
    bool good = true;
    grid_.for_channels(group, [&](int64_t channel) {
      const bool precise = settle(group, channel);
      // NaN: what this channel has is good, and shall not depend on its neighbors.
      const double shift = precise ? std::numeric_limits<double>::quiet_NaN() : double{shift_[access_.slot(channel)]};
      access_.for_slots(channel, [&](int64_t slot) { wide_shift_[slot] = shift; });
      good &= precise;
    });
    if (!good) measure_again(group);
    // A loop of its own, so that it is compiled to vectors.
    grid_.for_channels(group, [&](int64_t channel) {
      call_.invstd[channel] = static_cast<float>(1 / std::sqrt(variance_[channel] + call_.eps));
    });
    bool finite = true;
    grid_.for_channels(group, [&](int64_t channel) {
      finite &= std::isfinite(call_.mean[channel]) && std::isfinite(call_.var[channel]);
    });
    if (!finite) finite_ = false;
  }

  // With all sums in double.
  void measure_again(int64_t group) {
    grid_.reduce(WideMoments<V, T>{x(), wide_shift_}, group);
    grid_.for_channels(group, [&](int64_t channel) {
      if (!std::isnan(wide_shift_[access_.slot(channel)])) settle(group, channel);
    });
  }

  // Writes the statistics of a channel; says whether float was enough for them.
  bool settle(int64_t group, int64_t channel) {
    const auto totals = grid_.totals(group, channel);
    const double delta = totals.first * weight_, square = totals.second * weight_;
    const double var = square > delta * delta ? square - delta * delta : square * 0;  // 0, or NaN
    const double mean = double{shift_[access_.slot(channel)]} + delta;
    const float high = static_cast<float>(mean);
    call_.mean[channel] = high;
    if (call_.mean_low != nullptr) {
      call_.mean_low[channel] = std::isfinite(high) ? static_cast<float>(mean - double{high}) : 0;
    }
    call_.var[channel] = static_cast<float>(var);
    variance_[channel] = var;
    return std::isfinite(var) && delta * delta <= far * var;
  }

  void prepare(int64_t group) {
    grid_.for_channels(group, [&](int64_t channel) {
      const Affine affine = affine_of(call_, channel);
      access_.for_slots(channel, [&](int64_t slot) {
        mean_[slot] = affine.mean;
        scale_[slot] = affine.scale;
        offset_[slot] = affine.offset;
      });
    });
  }

  const T *x() const { return static_cast<const T *>(call_.x); }

  // (mean - shift)^2 / var up to which the variance keeps six digits in float. Ordinary values hardly ever are beyond.
  static constexpr double far = 4;

  const batchnorm_call &call_;
  const Access &access_;
  float *shift_, *mean_, *scale_, *offset_;  // per slot
  double *wide_shift_;                        // per slot
  double *variance_;                          // per channel
  double weight_;                             // of one value
  std::atomic<bool> finite_{true};
  Grid<Access> grid_;
};

}  // namespace
}  // namespace batchnorm
