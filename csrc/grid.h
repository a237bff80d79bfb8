// The order of work: groups of channels times chunks of their values, reduced, settled and applied.
#pragma once

#include <algorithm>

#include "parallel.h"
#include "scratch.h"

namespace batchnorm {
namespace {

// Sums of all groups and chunks, for each first `width` first sums, then as many second ones.
template <class Access>
class Grid {
 public:
  Grid(const Access &access, Parallel &parallel, double *partials)
      : access_(access),
        parallel_(parallel),
        partials_(partials),
        whole_groups_(access.groups() % parallel.threads() == 0 || access.groups() >= 4 * parallel.threads()) {}

  static int64_t partial_doubles(const Access &access) {
    return access.groups() * access.chunks() * 2 * access.width();
  }

  bool failed() const { return parallel_.failed(); }

  // For every group: work(group), which may call `reduce`; then apply(group, chunk) for its chunks, last to first.
  // A thread keeps a group to itself where there are enough of them, so that it is in its cache when it is applied.
  template <class Work, class Apply>
  void run(Work work, Apply apply) {
    const int64_t groups = access_.groups(), chunks = access_.chunks();
    if (whole_groups_) {
      parallel_.run(groups, [&](int64_t group) {
        work(group);
        for (int64_t chunk = chunks - 1; chunk >= 0; --chunk) apply(group, chunk);
      });
      return;
    }
    for (int64_t group = 0; group < groups; ++group) {
      work(group);
      parallel_.run_backwards(chunks, [&](int64_t chunk) { apply(group, chunk); });
    }
  }

  // Reduce a group; its total is then in first(group) and second(group).
  template <class Op>
  void reduce(const Op &op, int64_t group) {
    const int64_t chunks = access_.chunks(), width = access_.width();
    const auto one = [&](int64_t chunk) {
      double *sums = partial(group, chunk);
      for (int64_t i = 0; i < 2 * width; ++i) sums[i] = 0;
      access_.reduce(op, group, chunk, sums, sums + width);
    };
    if (whole_groups_) {
      for (int64_t chunk = 0; chunk < chunks; ++chunk) one(chunk);
    } else {
      parallel_.run(chunks, one);
    }
    double *total = partial(group, 0);
    for (int64_t chunk = 1; chunk < chunks; ++chunk) {
      const double *sums = partial(group, chunk);
      for (int64_t i = 0; i < 2 * width; ++i) total[i] += sums[i];
    }
  }

  struct Totals {
    double first = 0, second = 0;
  };

  Totals totals(int64_t group, int64_t channel) const {
    Totals totals;
    const double *first = partial(group, 0), *second = first + access_.width();
    access_.for_sums(channel, [&](int64_t k) {
      totals.first += first[k];
      totals.second += second[k];
    });
    return totals;
  }

  template <class F>
  void for_channels(int64_t group, F f) const {
    const int64_t each = access_.group_channels();
    const int64_t end = std::min(access_.channels(), (group + 1) * each);
    for (int64_t channel = group * each; channel < end; ++channel) f(channel);
  }

 private:
  double *partial(int64_t group, int64_t chunk) const {
    return partials_ + (group * access_.chunks() + chunk) * 2 * access_.width();
  }

  const Access &access_;
  Parallel &parallel_;
  double *partials_;
  bool whole_groups_;
};

}  // namespace
}  // namespace batchnorm
