"""Where the values of a program lie: see `plan`.

`here` is the rectangle of a program in its matrix: (block, row, row_end, column, column_end,
columns, channels, inner). A tile is given by its first row and column; everything that is added to
that is the same for all tiles.
"""

import triton
import triton.language as tl


@triton.jit
def rectangle(block, split, matrix, cut, PLANES: tl.constexpr, TC: tl.constexpr):
    """Give the rectangle of a program: `matrix` and `cut` are what `calls.place` gives."""
    rows, columns, channels, inner = matrix
    split_rows, split_tiles, column_splits = cut
    row = (split // column_splits) * split_rows
    row_end = tl.minimum(row + split_rows, rows)
    if PLANES:
        # Multiples of constants, written so that the compiler sees what is aligned.
        column = ((split % column_splits) * split_tiles) * TC
        column_end = tl.minimum(column + split_tiles * TC, columns)
    else:
        column = block * TC
        column_end = tl.minimum(column + TC, columns)
    return block, row, row_end, column, column_end, columns, channels, inner


@triton.jit
def whole(block, rows, columns, channels, inner, PLANES: tl.constexpr, TC: tl.constexpr):
    """Give the rectangle of a program that has all values of its channels."""
    column = 0 if PLANES else block * TC
    column_end = columns if PLANES else tl.minimum(block * TC + TC, columns)
    return block, 0, rows, column, column_end, columns, channels, inner


@triton.jit
def lanes_of(here, PLANES: tl.constexpr, TC: tl.constexpr):
    """Give what a program has sums of, (1, 1) or (1, TC): the channel, its lane, whether it exists.

    A lane is a channel's run, or one column of all.
    """
    block, _, _, _, _, columns, channels, inner = here
    if PLANES:
        lane = tl.zeros([1, 1], tl.int32) + block
        channel, exists = lane, lane < channels
    else:
        lane = (block * TC + tl.arange(0, TC))[None, :]
        channel, exists = lane // inner, lane < columns
    return channel, lane, exists


@triton.jit
def tiles_of(here, TR: tl.constexpr, TC: tl.constexpr):
    """Count the tiles."""
    _, row, row_end, column, column_end, _, _, _ = here
    return tl.cdiv(row_end - row, TR) * tl.cdiv(column_end - column, TC)


@triton.jit
def counts(here, TR: tl.constexpr, TC: tl.constexpr):
    """Count the values of every place in a tile, (TR, TC)."""
    _, row, row_end, column, column_end, _, _, _ = here
    of_rows = tl.cdiv(row_end - row - tl.arange(0, TR), TR)
    of_columns = tl.cdiv(column_end - column - tl.arange(0, TC), TC)
    return (of_rows[:, None] * of_columns[None, :]).to(tl.float32)


@triton.jit
def following(here, row, column, TR: tl.constexpr, TC: tl.constexpr):
    """Give the tile after one: along the columns first."""
    _, _, _, first, column_end, _, _, _ = here
    column += TC
    ended = column >= column_end
    return tl.where(ended, row + TR, row), tl.where(ended, first, column)


@triton.jit
def inside(here, row, column, TR: tl.constexpr, TC: tl.constexpr):
    """Say which values of a tile are in the rectangle, (TR, TC)."""
    _, _, row_end, _, column_end, _, _, _ = here
    i = row + tl.arange(0, TR)[:, None]
    j = column + tl.arange(0, TC)[None, :]
    return (i < row_end) & (j < column_end)


@triton.jit
def first_at(here, row, column, PLANES: tl.constexpr):
    """Give the place of a tile's first value."""
    block, _, _, _, _, columns, channels, _ = here
    at = tl.cast(row, tl.int64)
    if PLANES:
        at = at * channels + block
    return at * columns + column


@triton.jit
def within(here, PLANES: tl.constexpr, TR: tl.constexpr, TC: tl.constexpr):
    """Give the places of the values of a tile, relative to its first, (TR, TC).

    They are 32-bit numbers: a plan sees to it that no tile is larger.
    """
    _, _, _, _, _, columns, channels, _ = here
    stride = columns * channels if PLANES else columns
    return tl.arange(0, TR)[:, None] * stride + tl.arange(0, TC)[None, :]


@triton.jit
def shares_at(
    share,
    here,
    row,
    column,
    each,
    there,
    PLANES: tl.constexpr,
    TR: tl.constexpr,
    TC: tl.constexpr,
):
    """Load how much the positions of a tile count, of `each` channels alike."""
    block, _, _, _, _, columns, channels, inner = here
    groups = channels // each
    i = (row + tl.arange(0, TR)[:, None]).to(tl.int64)
    j = column + tl.arange(0, TC)[None, :]
    if PLANES:
        at = (i * groups + block // each) * columns + j
    else:
        at = (i * groups + j // (inner * each)) * inner + j % inner
    return tl.load(share + at, mask=there, other=0.0)


@triton.jit
def signs_at(signs, here, row, column, PLANES: tl.constexpr, TR: tl.constexpr, TC: tl.constexpr):
    """Give pointers to the bytes of eight signs of a tile, (TR, TC / 8), and which are there.

    A run or a row is filled up to whole bytes.
    """
    block, _, row_end, _, column_end, columns, channels, _ = here
    i = row + tl.arange(0, TR)[:, None]
    byte = column // 8 + tl.arange(0, TC // 8)[None, :]
    of_row = i.to(tl.int64)
    if PLANES:
        of_row = of_row * channels + block
    at = of_row * ((columns + 7) // 8) + byte
    return signs + at, (i < row_end) & (byte * 8 < column_end)


@triton.jit
def pack_signs(passed, TR: tl.constexpr, TC: tl.constexpr):
    """Make bytes (TR, TC / 8) of truth values (TR, TC)."""
    bits = tl.reshape(passed.to(tl.int32), (TR, TC // 8, 8))
    return tl.sum(bits << tl.arange(0, 8)[None, None, :], axis=2).to(tl.uint8)


@triton.jit
def unpack_signs(bytes, TR: tl.constexpr, TC: tl.constexpr):
    """Undo `pack_signs`."""
    bits = (bytes.to(tl.int32)[:, :, None] >> tl.arange(0, 8)[None, None, :]) & 1
    return tl.reshape(bits, (TR, TC)) != 0


@triton.jit
def parts_at(parts, start, number, channel, channels, inner, PARTS: tl.constexpr):
    """Give pointers to what the lanes of channels have, (PARTS, CHANNELS), and which are there."""
    part = start + tl.arange(0, PARTS)[:, None]
    at = ((part // inner) * channels + channel) * inner + part % inner
    return parts + at, (part < number) & (channel < channels)


@triton.jit
def total(lanes, PLANES: tl.constexpr):
    """Sum the lanes (TR, TC) of every channel; (1, 1) or (1, TC)."""
    if PLANES:
        lanes = tl.sum(lanes, axis=1, keep_dims=True)
    return tl.sum(lanes, axis=0, keep_dims=True)


@triton.jit
def largest(lanes, PLANES: tl.constexpr):
    """Take the maximum in the same way."""
    if PLANES:
        lanes = tl.max(lanes, axis=1, keep_dims=True)
    return tl.max(lanes, axis=0, keep_dims=True)
