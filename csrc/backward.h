// The backward pass: gradients of weight and bias, of the input and of the residual.
#pragma once

#include "affine.h"
#include "backward_ops.h"
#include "caches.h"
#include "grid.h"

namespace batchnorm {
namespace {

template <class Access, class V, class T, class Activation>
class Backward {
 public:
  static int32_t run(const batchnorm_call &call, const Access &access) {
    Parallel parallel(call, access.count() * access.channels());
    Scratch scratch(5, access.slots(), sizeof(float), Grid<Access>::partial_doubles(access));
    if (scratch.missing()) return BATCHNORM_OUT_OF_MEMORY;
    Backward(call, access, parallel, scratch).run();
    return parallel.failed() ? BATCHNORM_PARALLEL_FAILED : BATCHNORM_OK;
  }

 private:
  Backward(const batchnorm_call &call, const Access &access, Parallel &parallel, Scratch &scratch)
      : call_(call),
        access_(access),
        mean_(scratch.vector<float>()),
        scale_(scratch.vector<float>()),
        offset_(scratch.vector<float>()),
        slope_(scratch.vector<float>()),
        shift_(scratch.vector<float>()),
        grid_(access, parallel, scratch.doubles(0)) {}

  void run() {
    const Gradient<V, T, Activation> gradient{static_cast<const T *>(call_.x),
                                              static_cast<const T *>(call_.residual),
                                              static_cast<const T *>(call_.grad_output),
                                              call_.signs,
                                              mean_,
                                              scale_,
                                              offset_,
                                              Activation(call_.activation)};
    const int64_t bytes = access_.count() * access_.channels() * int64_t{sizeof(T)};
    const GradientOutput<V, T, Activation> output{
        gradient,
        static_cast<T *>(call_.grad_input),
        static_cast<T *>(call_.grad_residual),
        access_.is_aligned() && can_stream(3 * bytes, call_.grad_input) && can_stream(3 * bytes, call_.grad_residual),
        call_.constant != 0,
        slope_,
        shift_};
    const bool any = call_.grad_input != nullptr || call_.grad_residual != nullptr;
    const bool sums = (call_.grad_input != nullptr && call_.constant == 0) || call_.grad_weight != nullptr ||
                      call_.grad_bias != nullptr;
    grid_.run(
        [&](int64_t group) {
          prepare(group);
          if (!sums) return;
          grid_.reduce(GradientSums<V, T, Activation>{gradient}, group);
          grid_.for_channels(group, [&](int64_t channel) { settle(group, channel); });
        },
        [&](int64_t group, int64_t chunk) {
          if (any) access_.apply(output, group, chunk);
        });
  }

  void prepare(int64_t group) {
    grid_.for_channels(group, [&](int64_t channel) {
      const Affine affine = affine_of(call_, channel);
      access_.for_slots(channel, [&](int64_t slot) {
        mean_[slot] = affine.mean;
        scale_[slot] = affine.scale;
        offset_[slot] = affine.offset;
        slope_[slot] = shift_[slot] = 0;
      });
    });
  }

  void settle(int64_t group, int64_t channel) {
    const auto totals = grid_.totals(group, channel);
    const double low = low_of(call_, channel), invstd = double{call_.invstd[channel]};
    const double sum_dy = totals.first, sum_dy_xmu = totals.second - low * sum_dy;
    if (call_.grad_bias != nullptr) call_.grad_bias[channel] = static_cast<float>(sum_dy);
    if (call_.grad_weight != nullptr) {
      call_.grad_weight[channel] = static_cast<float>(sum_dy_xmu * invstd);
    }
    if (call_.constant != 0 || access_.count() == 0) return;
    // (g - sum_dy / count - (x - mean) * slope) * scale, sorted by what differs between values.
    const double count = static_cast<double>(access_.count());
    const double scale = double{scale_[access_.slot(channel)]};
    const double slope = invstd * invstd * sum_dy_xmu / count;
    const double shift = low * slope - sum_dy / count;
    access_.for_slots(channel, [&](int64_t slot) {
      slope_[slot] = static_cast<float>(-scale * slope);
      shift_[slot] = static_cast<float>(scale * shift);
    });
  }

  const batchnorm_call &call_;
  const Access &access_;
  float *mean_, *scale_, *offset_, *slope_, *shift_;  // per slot
  Grid<Access> grid_;
};

}  // namespace
}  // namespace batchnorm
