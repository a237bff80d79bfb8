// Access to (outer, channels, inner) where a channel's values are planes of neighbors: one channel per group.
#pragma once

#include "access.h"

namespace batchnorm {
namespace {

template <class Isa, class V>
class Planes {
 public:
  Planes(int64_t outer, int64_t channels, int64_t inner)
      : outer_(outer),
        channels_(channels),
        inner_(inner),
        pieces_(std::max<int64_t>(1, ceil_div(inner, chunk))),
        planes_(std::max<int64_t>(1, chunk / std::max<int64_t>(1, inner))),
        ahead_(std::max<int64_t>(1, prefetched / 2 / std::max<int64_t>(1, inner))) {}

  int64_t count() const { return outer_ * inner_; }
  int64_t channels() const { return channels_; }
  int64_t groups() const { return channels_; }
  int64_t chunks() const { return pieces_ > 1 ? outer_ * pieces_ : ceil_div(outer_, planes_); }
  int64_t group_channels() const { return 1; }
  int64_t width() const { return 1; }
  int64_t slots() const { return channels_; }
  int64_t sign_words() const { return outer_ * channels_ * words(); }

  // Index of the k-th value of a channel.
  int64_t value(int64_t channel, int64_t k) const { return start(k / inner_, channel) + k % inner_; }

  int64_t slot(int64_t channel) const { return channel; }

  template <class F>
  void for_slots(int64_t channel, F f) const {
    f(channel);
  }

  // Add the sums of a chunk of a group to first and second, `width` values each.
  template <class Op>
  BATCHNORM_LOOP void reduce(const Op &op, int64_t group, int64_t index, double *first, double *second) const {
    const auto constants = op.constants(Broadcast{group});
    typename Op::Chain chains[Isa::chains];
    WideSums<V> total;
    int64_t pending = 0;
    for_runs(op, group, index, [&](int64_t begin, int64_t end, int64_t words) {
      while (begin < end) {
        // Between whole vectors, where those of `signs` are too.
        const int64_t stop = std::min(end, round_up(begin + block - pending, lanes));
        vectors(begin, stop, [&](int64_t i, auto part, auto k) { op.reduce(i, part, constants, words, chains[k]); });
        pending += stop - begin;
        begin = stop;
        if (pending < block) continue;
        fold(chains, total);
        pending = 0;
      }
    });
    fold(chains, total);
    total.add_all_to(first, second);
  }

  template <class Op>
  BATCHNORM_LOOP void apply(const Op &op, int64_t group, int64_t index) const {
    const auto constants = op.constants(Broadcast{group});
    for_runs(op, group, index, [&](int64_t begin, int64_t end, int64_t words) {
      vectors(begin, end, [&](int64_t i, auto part, auto) { op.apply(i, part, constants, words); });
    });
  }

 private:
  static constexpr int64_t lanes = V::lanes;
  static constexpr int64_t chunk = 1 << 16;                   // values
  static constexpr int64_t block = 2 * lanes * block_depth;  // values; spread over the chains

  static constexpr int64_t prefetched = 1024;                // values, of one plane or several

  int64_t start(int64_t sample, int64_t channel) const { return (sample * channels_ + channel) * inner_; }

  // Words of signs per plane: it may touch two more vectors than it fills.
  int64_t words() const { return inner_ / lanes + 2; }

  // Calls f(begin, end, words) for all runs of neighbors in a chunk; the signs of i are in word words + i / lanes.
  template <class Op, class F>
  void for_runs(const Op &op, int64_t group, int64_t index, F f) const {
    const int64_t piece = index % pieces_;
    const int64_t sample = pieces_ > 1 ? index / pieces_ : index * planes_;
    const int64_t end = pieces_ > 1 ? sample + 1 : std::min(outer_, sample + planes_);
    for (int64_t n = sample; n < end; ++n) {
      prefetch(op, n + ahead_, group);
      const int64_t begin = start(n, group), plane = n * channels_ + group;
      f(cut(begin, piece), cut(begin, piece + 1), plane * words() - begin / lanes);
    }
  }

  // Processors recognize neighbors, but not where the next plane begins.
  template <class Op>
  void prefetch(const Op &op, int64_t sample, int64_t group) const {
    if (sample >= outer_) sample -= outer_, ++group;
    if (sample >= outer_ || group >= channels_) return;
    const int64_t begin = start(sample, group), end = begin + std::min(inner_, prefetched);
    for (int64_t i = begin; i < end; i += Op::line) op.prefetch(i);
  }

  // Where a piece of the plane that begins there begins: at a whole vector, unless it is the first.
  int64_t cut(int64_t begin, int64_t piece) const {
    if (piece == 0) return begin;
    return std::min(begin + inner_, round_up(begin + piece * chunk, lanes));
  }

  // Calls f(i, part, k) for the vectors of a run; whole ones begin at multiples of their length. k < Isa::chains.
  template <class F>
  static void vectors(int64_t i, int64_t end, F f) {
    constexpr int chains = Isa::chains;
    using Part = typename V::Part;
    if (const int64_t head = std::min(end, round_up(i, lanes)) - i; head > 0) {
      f(i, Part(head), Index<chains - 1>());
      i += head;
    }
    for (; i + chains * lanes <= end; i += chains * lanes) {
      unrolled<chains>([&](auto k) { f(i + k * lanes, Full(), k); });
    }
    unrolled<chains - 1>([&](auto k) {
      if (i + lanes > end) return;
      f(i, Full(), k);
      i += lanes;
    });
    if (i < end) f(i, Part(end - i), Index<chains - 1>());
  }

  template <class Chain>
  static void fold(Chain (&chains)[Isa::chains], WideSums<V> &total) {
    for (int k = 1; k < Isa::chains; ++k) chains[0] += chains[k];
    total += chains[0];
    for (Chain &chain : chains) chain = Chain();
  }

  int64_t outer_, channels_, inner_;
  int64_t pieces_;  // chunks per plane
  int64_t planes_;  // planes per chunk, where that is 1
  int64_t ahead_;   // planes between a prefetch and its use
};

}  // namespace
}  // namespace batchnorm
