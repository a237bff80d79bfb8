// Access to (outer, channels, inner) as rows of columns: channels-last, and planes too small to be worth a vector.
//
// A row is so many samples that it is a multiple of a vector; then no row but the last has a rest.
#pragma once

#include <numeric>

#include "access.h"

namespace batchnorm {
namespace {

template <class Isa, class V>
class Rows {
 public:
  // A group has so many channels that its values are `resident` at most; all of them if those would be too few.
  Rows(int64_t outer, int64_t channels, int64_t inner, int64_t resident)
      : outer_(outer),
        channels_(channels),
        inner_(inner),
        period_(channels * inner),
        columns_(std::lcm(std::max<int64_t>(1, period_), lanes)),
        rows_(outer * period_ / columns_),
        rest_(outer * period_ % columns_),
        width_(width_for(resident)),
        block_(std::clamp<int64_t>(block_values / columns_, 16, block_depth)),
        chunk_(round_up(std::max({min_chunk, chunk_values / columns_, rows_ / max_chunks}), block_)) {}

  int64_t count() const { return outer_ * inner_; }
  int64_t channels() const { return channels_; }
  int64_t groups() const { return ceil_div(columns_, width_); }
  int64_t chunks() const { return std::max<int64_t>(1, ceil_div(rows_, chunk_)); }
  int64_t group_channels() const { return groups() == 1 ? channels_ : width_ / inner_; }
  int64_t width() const { return width_; }
  int64_t slots() const { return columns_; }
  int64_t sign_words() const { return ceil_div(outer_ * period_, lanes); }

  // Index of the k-th value of a channel.
  int64_t value(int64_t channel, int64_t k) const {
    return k / inner_ * period_ + channel * inner_ + k % inner_;
  }

  // Its first slot.
  int64_t slot(int64_t channel) const { return channel * inner_; }

  template <class F>
  void for_slots(int64_t channel, F f) const {
    for (int64_t sample = 0; sample < columns_; sample += period_) {
      for (int64_t i = 0; i < inner_; ++i) f(sample + channel * inner_ + i);
    }
  }

  // Add the sums of a chunk of a group to first and second, `width` values each.
  template <class Op>
  BATCHNORM_LOOP void reduce(const Op &op, int64_t group, int64_t index, double *first, double *second) const {
    const int64_t left = group * width_;
    const auto add_tile = [&](int64_t row, int64_t end, int64_t column, auto part, auto count) {
      typename Op::Chain sums[count];
      const auto constants = constants_of<count>(op, column);
      for (int64_t i = row * columns_ + column; row < end; ++row, i += columns_) {
        unrolled<count>([&](auto k) { op.reduce(i + k * lanes, part, constants.at[k], 0, sums[k]); });
      }
      unrolled<count>([&](auto k) { add(sums[k], column - left + k * lanes, first, second); });
    };
    if (is_streamed()) {
      reduce_streamed(op, group, index, first, second);
      if (has_rest(index)) for_row_tiles(rows_, rows_ + 1, left, rest_, add_tile);
    } else {
      for_tiles(group, index, block_, add_tile);
    }
  }

  template <class Op>
  BATCHNORM_LOOP void apply(const Op &op, int64_t group, int64_t index) const {
    for_tiles(group, index, is_streamed() ? 1 : block_, [&](int64_t row, int64_t end, int64_t column, auto part, auto count) {
      const auto constants = constants_of<count>(op, column);
      for (int64_t i = row * columns_ + column; row < end; ++row, i += columns_) {
        unrolled<count>([&](auto k) { op.apply(i + k * lanes, part, constants.at[k], 0); });
      }
    });
  }

 private:
  static constexpr int64_t lanes = V::lanes;
  static constexpr int64_t block_values = 8192;    // they stay in the first-level cache
  static constexpr int64_t chunk_values = 1 << 15;
  static constexpr int64_t max_chunks = 256;       // they have a sum per column each
  static constexpr int64_t streamed = 1 << 18;     // values; more are not in the second-level cache
  static constexpr int64_t panel = 2048;           // columns whose sums stay in the first-level cache
  static constexpr int64_t min_width = 1024;       // columns; in float, a page of memory
  static constexpr int64_t min_chunk = 64;         // rows, for which a chunk has two sums in double

  // Memory is fastest as one stream, row by row. Constants and sums can then not be kept in registers.
  bool is_streamed() const { return rows_ * columns_ > streamed; }

  bool has_rest(int64_t index) const { return rest_ > 0 && index == chunks() - 1; }

  template <class Chain>
  static void add(const Chain &sums, int64_t at, double *first, double *second) {
    WideSums<V> wide;
    wide += sums;
    wide.add_to(first + at, second + at);
  }

  template <class Op>
  BATCHNORM_LOOP void reduce_streamed(const Op &op, int64_t group, int64_t index, double *first,
                                      double *second) const {
    const int64_t left = group * width_, right = std::min(columns_, left + width_);
    const int64_t stop = std::min(rows_, (index + 1) * chunk_);
    for (int64_t row = index * chunk_; row < stop; row += block_depth) {
      for (int64_t column = left; column < right; column += panel) {
        typename Op::Chain sums[panel / lanes];
        const int64_t width = std::min(panel, right - column), end = std::min(stop, row + block_depth);
        for (int64_t r = row; r < end; ++r) {
          for (int64_t j = 0; j < width; j += lanes) {
            const auto constants = op.constants(Columns{column + j});
            op.reduce(r * columns_ + column + j, Full(), constants, 0, sums[j / lanes]);
          }
        }
        for (int64_t j = 0; j < width; j += lanes) add(sums[j / lanes], column - left + j, first, second);
      }
    }
  }

  template <class Op, int Count>
  struct Constants {
    typename Op::Constants at[Count];
  };

  template <int Count, class Op>
  static Constants<Op, Count> constants_of(const Op &op, int64_t column) {
    Constants<Op, Count> constants;
    unrolled<Count>([&](auto k) { constants.at[k] = op.constants(Columns{column + k * lanes}); });
    return constants;
  }

  // Groups of a few channels are worth it if their rows still are long runs of neighbors.
  int64_t width_for(int64_t resident) const {
    const int64_t step = std::lcm(std::max<int64_t>(1, inner_), lanes);
    const int64_t width = resident / std::max<int64_t>(1, rows_) / step * step;
    return columns_ > period_ || width < min_width ? columns_ : std::min(columns_, width);
  }

  // Calls f(row, end, column, part, count) for all tiles of a chunk: `count` vectors wide, whole but in the last row.
  template <class F>
  void for_tiles(int64_t group, int64_t index, int64_t block, F f) const {
    const int64_t left = group * width_, right = std::min(columns_, left + width_);
    const int64_t stop = std::min(rows_, (index + 1) * chunk_);
    for (int64_t row = index * chunk_; row < stop; row += block) {
      for_row_tiles(row, std::min(stop, row + block), left, right, f);
    }
    if (has_rest(index)) for_row_tiles(rows_, rows_ + 1, left, rest_, f);
  }

  template <class F>
  static void for_row_tiles(int64_t row, int64_t end, int64_t column, int64_t right, F f) {
    constexpr int wide = Isa::columns;
    for (; column + wide * lanes <= right; column += wide * lanes) f(row, end, column, Full(), Index<wide>());
    for (; column + lanes <= right; column += lanes) f(row, end, column, Full(), Index<1>());
    if (column < right) f(row, end, column, typename V::Part(right - column), Index<1>());
  }

  int64_t outer_, channels_, inner_;
  int64_t period_;       // columns of one sample
  int64_t columns_;      // of a row
  int64_t rows_, rest_;  // whole rows, and the columns of one more
  int64_t width_;        // columns of a group
  int64_t block_;        // rows that are added in the precision of a vector
  int64_t chunk_;        // rows
};

}  // namespace
}  // namespace batchnorm
