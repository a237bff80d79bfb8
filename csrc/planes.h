// Access to (outer, channels, inner) where a channel's values are planes of at least a vector of neighbors.
#pragma once

#include "access.h"
#include "guess.h"

namespace batchnorm {
namespace {

template <class Isa, class V>
class Planes {
 public:
  static constexpr int64_t lanes = V::lanes;

  // A group has at most `resident` values, but for one channel or a run of neighbors that is worth to be read.
  Planes(int64_t outer, int64_t channels, int64_t inner, int64_t resident, int64_t threads)
      : outer_(outer),
        channels_(channels),
        inner_(inner),
        pieces_(std::max<int64_t>(1, inner / chunk)),
        samples_(std::max<int64_t>(1, chunk / inner)),
        group_(group_for(resident, threads)) {}

  int64_t count() const { return outer_ * inner_; }
  int64_t channels() const { return channels_; }
  int64_t groups() const { return ceil_div(channels_, group_); }
  int64_t chunks() const { return pieces_ > 1 ? outer_ * pieces_ : ceil_div(outer_, samples_); }
  int64_t group_channels() const { return group_; }
  int64_t width() const { return group_; }
  int64_t slots() const { return channels_; }
  int64_t sign_words() const { return outer_ * channels_ * words(); }
  bool is_aligned() const { return inner_ % lanes == 0; }

  // Index of the k-th value of a channel.
  int64_t value(int64_t channel, int64_t k) const { return start(k / inner_, channel) + k % inner_; }

  int64_t slot(int64_t channel) const { return channel; }

  template <class F>
  void for_slots(int64_t channel, F f) const {
    f(channel);
  }

  template <class F>
  void for_sums(int64_t channel, F f) const {
    f(channel % group_);
  }

  // Values near the means of a group.
  template <class T>
  void guess_means(const T *x, int64_t group, float *means) const {
    const int64_t left = group * group_, right = std::min(channels_, left + group_);
    for (int64_t channel = left; channel < right; ++channel) {
      means[channel] = as<T>(guess_mean_of(count(), [&](int64_t k) { return widened(x[value(channel, k)]); }));
    }
  }

  // Add the sums of a chunk of a group to first and second, `width` values each.
  template <class Op>
  BATCHNORM_LOOP void reduce(const Op &op, int64_t group, int64_t index, double *first, double *second) const {
    typename Op::Chain sums[max_group];
    int64_t pending = 0;
    const int64_t left = group * group_, right = std::min(channels_, left + group_);
    const Box box = box_of(index);
    for (int64_t sample = box.sample; sample < box.end_sample; ++sample) {
      for (int64_t k = 0; k < right - left; ++k) {
        prefetch(op, sample, left + k, left, right);
        sum_plane(op, box, sample, left + k, sums[k], first + k, second + k);
      }
      pending += inner_;
      if (pending < shallow && sample + 1 < box.end_sample) continue;
      for (int64_t k = 0; k < right - left; ++k) fold(sums[k], first + k, second + k);
      pending = 0;
    }
  }

  template <class Op>
  BATCHNORM_LOOP void apply(const Op &op, int64_t group, int64_t index) const {
    const int64_t left = group * group_, right = std::min(channels_, left + group_);
    const Box box = box_of(index);
    for (int64_t sample = box.sample; sample < box.end_sample; ++sample) {
      for (int64_t channel = left; channel < right; ++channel) {
        prefetch(op, sample, channel, left, right);
        apply_plane(op, box, sample, channel);
      }
    }
  }

 private:
  static constexpr int64_t chunk = 1 << 16;                             // values of a channel
  static constexpr int64_t shallow = block_depth * lanes;               // values that one sum in a vector may take
  static constexpr int64_t deep = block_depth * lanes * Isa::chains;    // the same of several sums
  static constexpr int64_t run = 8192;                                  // values; eight pages of memory
  static constexpr int64_t max_group = 32;
  static constexpr int64_t prefetched = 1024;                           // values
  static constexpr int unroll = 4;

  // Samples, and what of their planes.
  struct Box {
    int64_t sample, end_sample, begin, end;
  };

  Box box_of(int64_t index) const {
    if (pieces_ == 1) return {index * samples_, std::min(outer_, (index + 1) * samples_), 0, inner_};
    const int64_t sample = index / pieces_, piece = index % pieces_;
    return {sample, sample + 1, piece * chunk, piece + 1 == pieces_ ? inner_ : (piece + 1) * chunk};
  }

  // Memory is slow to begin to read a run, so that short planes are read with their neighbors; every thread gets some.
  int64_t group_for(int64_t resident, int64_t threads) const {
    const int64_t all = std::max<int64_t>(1, outer_ * inner_);
    const int64_t fitting = std::max(resident / all, run / 32 / inner_);
    const int64_t fair = channels_ / (4 * threads);
    return std::clamp<int64_t>(std::min({run / inner_, fitting, fair}), 1, max_group);
  }

  int64_t start(int64_t sample, int64_t channel) const { return (sample * channels_ + channel) * inner_; }

  // A plane has a word of signs per vector.
  int64_t words() const { return ceil_div(inner_, lanes); }
  int64_t word_of(int64_t sample, int64_t channel) const { return (sample * channels_ + channel) * words(); }

  // Processors recognize neighbors, but not where the next sample's begin.
  template <class Op>
  void prefetch(const Op &op, int64_t sample, int64_t channel, int64_t left, int64_t right) const {
    const int64_t size = right - left;
    if (++sample >= outer_) sample = 0, channel += size;
    if (channel >= channels_) return;
    const int64_t begin = start(sample, channel), end = begin + std::min(inner_, prefetched);
    for (int64_t i = begin; i < end; i += Op::line) op.prefetch(i);
  }

  template <class Chain>
  static void fold(Chain &sum, double *first, double *second) {
    sum.add_all_to(first, second);
    sum = Chain();
  }

  // Add a plane to sum, and of a long one, from time to time, that to first and second.
  template <class Op, class Chain>
  void sum_plane(const Op &op, const Box &box, int64_t sample, int64_t channel, Chain &sum, double *first,
                 double *second) const {
    const auto constants = op.constants(Broadcast{channel});
    const int64_t plane = start(sample, channel), word = word_of(sample, channel);
    if (inner_ <= shallow) return sum_run<1>(op, constants, plane, 0, inner_, word, sum);
    for (int64_t i = box.begin; i < box.end; i += deep) {
      sum_run<Isa::chains>(op, constants, plane, i, std::min(box.end, i + deep), word, sum);
      if (box.end - box.begin > deep) fold(sum, first, second);
    }
  }

  template <class Op>
  void apply_plane(const Op &op, const Box &box, int64_t sample, int64_t channel) const {
    const auto constants = op.constants(Broadcast{channel});
    const int64_t plane = start(sample, channel), word = word_of(sample, channel);
    int64_t i = box.begin;
    for (; i + unroll * lanes <= box.end; i += unroll * lanes) {
      unrolled<unroll>([&](auto k) { op.apply(plane + i + k * lanes, Full(), constants, word + i / lanes + k); });
    }
    for (; i + lanes <= box.end; i += lanes) op.apply(plane + i, Full(), constants, word + i / lanes);
    // Some values are written twice, which is faster than a part of a vector.
    if (i < box.end) op.apply(plane + box.end - lanes, Full(), constants, word + i / lanes);
  }

  // Add the values [i, end) of a plane to sums.
  template <int Chains, class Op, class Constants, class Chain>
  static void sum_run(const Op &op, const Constants &constants, int64_t plane, int64_t i, int64_t end, int64_t word,
                      Chain &sums) {
    Chain chains[Chains];
    for (; i + Chains * lanes <= end; i += Chains * lanes) {
      unrolled<Chains>([&](auto k) {
        op.reduce(plane + i + k * lanes, Full(), constants, word + i / lanes + k, chains[k]);
      });
    }
    for (; i + lanes <= end; i += lanes) op.reduce(plane + i, Full(), constants, word + i / lanes, chains[0]);
    if (i < end) {
      const typename V::Last part(end - i);
      op.reduce(plane + end - lanes, part, constants, word + i / lanes, chains[Chains - 1]);
    }
    for (const Chain &chain : chains) sums += chain;
  }

  int64_t outer_, channels_, inner_;
  int64_t pieces_;   // chunks per plane
  int64_t samples_;  // samples per chunk, where that is 1
  int64_t group_;    // channels
};

}  // namespace
}  // namespace batchnorm
