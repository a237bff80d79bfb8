// Access to (outer, channels, inner) as rows of columns: channels-last, and planes shorter than a vector.
//
// A row is one sample, or, where samples are short, so many that it is a multiple of a vector. Then no row but the last
// has a rest. A long sample's own rest is read as the whole vector that ends with it, in columns of their own.
#pragma once

#include <numeric>

#include "access.h"
#include "guess.h"

namespace batchnorm {
namespace {

template <class Isa, class V>
class Rows {
 public:
  static constexpr int64_t lanes = V::lanes;

  Rows(int64_t outer, int64_t channels, int64_t inner)
      : outer_(outer),
        channels_(channels),
        inner_(inner),
        period_(channels * inner),
        columns_(columns_for(period_)),
        rows_(outer * period_ / columns_),
        rest_(outer * period_ % columns_),
        strip_(strip_for(outer * period_)),
        depth_(rows_ <= few_rows ? block_depth / 4 : block_depth),
        chunk_(round_up(std::max({min_chunk, chunk_values / columns_, rows_ / max_chunks}), block_depth)) {}

  int64_t count() const { return outer_ * inner_; }
  int64_t channels() const { return channels_; }
  int64_t groups() const { return 1; }
  int64_t chunks() const { return std::max<int64_t>(1, ceil_div(rows_, chunk_)); }
  int64_t group_channels() const { return channels_; }
  int64_t width() const { return slots(); }
  int64_t slots() const { return round_up(columns_, lanes); }
  int64_t sign_words() const { return (rows_ + 1) * words(); }
  bool is_aligned() const { return columns_ % lanes == 0; }

  // Index of the k-th value of a channel.
  int64_t value(int64_t channel, int64_t k) const {
    return k / inner_ * period_ + channel * inner_ + k % inner_;
  }

  // One place of a channel's constants.
  int64_t slot(int64_t channel) const { return slot_of(channel * inner_); }

  // All of them.
  template <class F>
  void for_slots(int64_t channel, F f) const {
    const int64_t whole = columns_ / lanes * lanes;
    for_columns(channel, [&](int64_t column) {
      if (column < whole) f(column);
      if (column >= columns_ - lanes && whole < columns_) f(column + overlap());
    });
  }

  // All places of a channel's sums.
  template <class F>
  void for_sums(int64_t channel, F f) const {
    for_columns(channel, [&](int64_t column) { f(slot_of(column)); });
  }

  // Values near the means.
  template <class T>
  BATCHNORM_LOOP void guess_means(const T *x, int64_t, float *means) const {
    if (columns_ == channels_ && rows_ >= guess_values) {
      for_tiles(0, 1, 0, columns_, [&](const Tile &tile, auto part, auto count) {
        unrolled<count>([&](auto k) {
          guess_vector(x + tile.column + k * lanes, part, means + tile.slot + k * lanes);
        });
      });
      return;
    }
    for (int64_t channel = 0; channel < channels_; ++channel) {
      const float mean = as<T>(guess_mean_of(count(), [&](int64_t k) { return widened(x[value(channel, k)]); }));
      for_slots(channel, [&](int64_t slot) { means[slot] = mean; });
    }
  }

  // Add the sums of a chunk to first and second, `width` values each.
  template <class Op>
  BATCHNORM_LOOP void reduce(const Op &op, int64_t, int64_t index, double *first, double *second) const {
    typename Op::Chain sums[panel / lanes];
    const int64_t stop = std::min(rows_, (index + 1) * chunk_);
    for (int64_t row = index * chunk_; row < stop; row += depth_) {
      sum_rows(op, row, std::min(stop, row + depth_), columns_, sums, first, second);
    }
    if (has_rest(index)) sum_rows(op, rows_, rows_ + 1, rest_, sums, first, second);
  }

  template <class Op>
  BATCHNORM_LOOP void apply(const Op &op, int64_t, int64_t index) const {
    const auto apply_tile = [&](const Tile &tile, auto part, auto count) {
      const auto constants = constants_of<count>(op, tile.slot);
      int64_t i = tile.row * columns_ + tile.column, word = tile.row * words() + tile.slot / lanes;
      int64_t ahead = ahead_of(tile);
      for (int64_t row = tile.row; row < tile.end; ++row, i += columns_, word += words()) {
        prefetch<count>(op, ahead);
        unrolled<count>([&](auto k) { op.apply(i + k * lanes, part, constants.at[k], word + k); });
      }
    };
    for_strips(index * chunk_, std::min(rows_, (index + 1) * chunk_), 0, columns_, apply_tile);
    if (has_rest(index)) for_tiles(rows_, rows_ + 1, 0, rest_, apply_tile);
  }

 private:
  static constexpr int64_t min_columns = 64;
  static constexpr int64_t strip_values = 2048;
  static constexpr int64_t distance = 2048;       // values between a strip and what is asked for
  static constexpr int64_t cached_values = 1 << 20;
  static constexpr int64_t few_rows = 4096;       // errors of more than these even out
  static constexpr int64_t page = 1024;           // columns; of float, a page of memory
  static constexpr int64_t chunk_values = 1 << 16;
  static constexpr int64_t max_chunks = 64;       // they have a sum per column each
  static constexpr int64_t min_chunk = 128;       // rows, for which a chunk has two sums in double
  static constexpr int64_t panel = 1024;          // columns whose sums stay in the first-level cache

  // Rows [row, end) of the columns from `column` on, whose constants and sums are at `slot`.
  struct Tile {
    int64_t row, end, column, slot;
  };

  static int64_t columns_for(int64_t period) {
    if (period >= min_columns) return period;
    const int64_t columns = std::lcm(std::max<int64_t>(1, period), lanes);
    return round_up(min_columns, columns);
  }

  template <class T, class Part>
  void guess_vector(const T *x, Part part, float *means) const {
    V values[guess_values];
    unrolled<guess_values>([&](auto i) { values[i] = V::load(x + i * rows_ / guess_values * columns_, part); });
    guess_mean(values).store(means, Full());
    for (int i = 0; i < V::lanes; ++i) means[i] = as<T>(means[i]);
  }

  // Rows of a tile: constants and sums stay in registers for so many. But out of the caches, memory is only fast in its
  // own order, and processors follow one run of neighbors per page.
  int64_t strip_for(int64_t values) const {
    if (columns_ <= Isa::columns * lanes) return strip_values / columns_;
    return columns_ <= min_columns || columns_ >= page || values <= cached_values ? 4 : 1;
  }

  // How far a slot of the vector that ends with a row is behind its column.
  int64_t overlap() const { return round_up(columns_, lanes) - columns_; }

  int64_t slot_of(int64_t column) const {
    return column < columns_ / lanes * lanes ? column : column + overlap();
  }

  int64_t words() const { return ceil_div(columns_, lanes); }

  bool has_rest(int64_t index) const { return rest_ > 0 && index == chunks() - 1; }

  template <class F>
  void for_columns(int64_t channel, F f) const {
    for (int64_t sample = 0; sample < columns_; sample += period_) {
      for (int64_t i = 0; i < inner_; ++i) f(sample + channel * inner_ + i);
    }
  }

  // Sums are zeros before and after.
  template <class Op, class Chain>
  void sum_rows(const Op &op, int64_t row, int64_t end, int64_t columns, Chain *sums, double *first,
                double *second) const {
    for (int64_t left = 0; left < columns; left += panel) {
      const int64_t right = std::min(columns, left + panel);
      for_strips(row, end, left, right, [&](const Tile &tile, auto part, auto count) {
        sum_tile(op, tile, part, count, sums + (tile.slot - left) / lanes);
      });
      fold(sums, left, right, first, second);
    }
  }

  template <class Op, class Part, class Count, class Chain>
  void sum_tile(const Op &op, const Tile &tile, Part part, Count count, Chain *sums) const {
    Chain chains[count];
    unrolled<count>([&](auto k) { chains[k] = sums[k]; });
    const auto constants = constants_of<count>(op, tile.slot);
    int64_t i = tile.row * columns_ + tile.column, word = tile.row * words() + tile.slot / lanes;
    int64_t ahead = ahead_of(tile);
    for (int64_t row = tile.row; row < tile.end; ++row, i += columns_, word += words()) {
      prefetch<count>(op, ahead);
      unrolled<count>([&](auto k) { op.reduce(i + k * lanes, part, constants.at[k], word + k, chains[k]); });
    }
    unrolled<count>([&](auto k) { sums[k] = chains[k]; });
  }

  template <class Chain>
  static void fold(Chain *sums, int64_t left, int64_t right, double *first, double *second) {
    for (int64_t slot = left; slot < right; slot += lanes, ++sums) {
      sums->add_to(first + slot, second + slot);
      *sums = Chain();
    }
  }

  // Where to ask for as many values as the tile has, so that memory is asked in its own order.
  int64_t ahead_of(const Tile &tile) const {
    return tile.end * columns_ + tile.column * (tile.end - tile.row) + distance;
  }

  template <int Count, class Op>
  static void prefetch(const Op &op, int64_t &ahead) {
    unrolled<Count>([&](auto k) {
      if constexpr (k % (Op::line / lanes) == 0) op.prefetch(ahead + k * lanes);
    });
    ahead += Count * lanes;
  }

  template <class Op, int Count>
  struct Constants {
    typename Op::Constants at[Count];
  };

  template <int Count, class Op>
  static Constants<Op, Count> constants_of(const Op &op, int64_t slot) {
    Constants<Op, Count> constants;
    unrolled<Count>([&](auto k) { constants.at[k] = op.constants(Columns{slot + k * lanes}); });
    return constants;
  }

  // Calls f(tile, part, count) for all tiles, a strip of rows after the other.
  template <class F>
  void for_strips(int64_t row, int64_t stop, int64_t left, int64_t right, F f) const {
    for (; row < stop; row += strip_) for_tiles(row, std::min(stop, row + strip_), left, right, f);
  }

  template <class F>
  void for_tiles(int64_t row, int64_t end, int64_t column, int64_t right, F f) const {
    constexpr int wide = Isa::columns;
    for (; column + wide * lanes <= right; column += wide * lanes) {
      f(Tile{row, end, column, column}, Full(), Index<wide>());
    }
    for (; column + lanes <= right; column += lanes) f(Tile{row, end, column, column}, Full(), Index<1>());
    if (column >= right) return;
    if (row < rows_) {
      f(Tile{row, end, right - lanes, column}, Full(), Index<1>());
    } else {
      f(Tile{row, end, column, column}, typename V::Part(right - column), Index<1>());
    }
  }

  int64_t outer_, channels_, inner_;
  int64_t period_;       // columns of one sample
  int64_t columns_;      // of a row
  int64_t rows_, rest_;  // whole rows, and the columns of one more
  int64_t strip_;        // rows that are read at once
  int64_t depth_;        // rows that are added in the precision of a vector
  int64_t chunk_;        // rows
};

}  // namespace
}  // namespace batchnorm
