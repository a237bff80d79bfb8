"""The kernels of the forward pass.

A program has a block of channels (axis 0 of the grid) and a split of their values (axis 1), see
`plan`. Each kernel comes with the same arguments for where the values are: `rows`, `units` (columns
by ALIGN), `channels`, `inner` (lanes of a channel), `split_rows`, `split_tiles` (columns by TC),
`column_splits`, and the constants PLANES, TR and TC (a tile), ALIGN, a power of two that divides
the columns, and STAGES: so many tiles are on their way to a sum at once.
"""

import triton
import triton.language as tl

from .activations import passes, value
from .moments import (
    about_mean,
    divisor,
    inverse_root,
    moments_of,
    reference_of,
    settle,
    two_sum,
    write_vectors,
)
from .tiles import (
    first_at,
    following,
    inside,
    lanes_of,
    pack_signs,
    parts_at,
    rectangle,
    signs_at,
    tiles_of,
    total,
    whole,
    within,
)


@triton.jit
def stats_kernel(
    x,  # (rows, ...) the input
    share,  # (rows, groups, columns) or (rows, groups) how much positions count, or None
    parts,  # (4, splits, lanes) out: count, mean, what it lacks, m2
    rows,
    units,
    channels,
    inner,
    split_rows,
    split_tiles,
    column_splits,
    each,  # channels of a group
    PLANES: tl.constexpr,
    TR: tl.constexpr,
    TC: tl.constexpr,
    ALIGN: tl.constexpr,
    STAGES: tl.constexpr,
):
    """Compute the moments of every split."""
    block, split = tl.program_id(0), tl.program_id(1)
    matrix = (rows, units * ALIGN, channels, inner)
    cut = (split_rows, split_tiles, column_splits)
    here = rectangle(block, split, matrix, cut, PLANES, TC)
    count, high, low, m2 = moments_of(x, share, here, each, PLANES, TR, TC, STAGES)
    _, lane, exists = lanes_of(here, PLANES, TC)
    lanes = channels if PLANES else units * ALIGN
    field = tl.num_programs(1) * lanes
    at = parts + split * lanes + lane
    tl.store(at, count, mask=exists)
    tl.store(at + field, high, mask=exists)
    tl.store(at + 2 * field, low, mask=exists)
    tl.store(at + 3 * field, m2, mask=exists)


@triton.jit
def merge_kernel(
    parts,  # (4, splits, channels, inner): a lane is a channel's, or one of its `inner`
    splits,
    channels,
    inner,
    vectors,  # (4, channels) out
    eps,
    running_mean,  # (channels,) to move, or None; so are the next
    running_var,
    missed,
    tracked,
    momentum,
    PARTS: tl.constexpr,  # of a tile
    CHANNELS: tl.constexpr,
):
    """Merge the moments of all lanes of a channel in a fixed order, and settle."""
    first = tl.program_id(0) == 0
    channel = (tl.program_id(0) * CHANNELS + tl.arange(0, CHANNELS))[None, :]
    exists = channel < channels
    field, number_of_parts = splits * channels * inner, splits * inner
    lanes = tl.zeros([PARTS, CHANNELS], tl.float32)
    count, means = lanes, lanes + float("-inf")
    for start in range(0, number_of_parts, PARTS):
        at, there = parts_at(parts, start, number_of_parts, channel, channels, inner, PARTS)
        of_part = tl.load(at, mask=there, other=0.0)
        high = tl.load(at + field, mask=there, other=0.0)
        count += of_part
        means = tl.maximum(means, tl.where(of_part > 0, high, float("-inf")))
    reference, number = reference_of(count, means, False)
    weighted = lanes
    for start in range(0, number_of_parts, PARTS):
        at, there = parts_at(parts, start, number_of_parts, channel, channels, inner, PARTS)
        weighted += _weighted(at, field, there, reference)
    reference += total(weighted, False) / divisor(number)
    weighted, m2 = lanes, lanes
    for start in range(0, number_of_parts, PARTS):
        at, there = parts_at(parts, start, number_of_parts, channel, channels, inner, PARTS)
        of_part = _weighted(at, field, there, reference)
        weighted += of_part
        m2 += tl.load(at + 3 * field, mask=there, other=0.0)
        m2 += of_part * _delta(at, field, there, reference)
    of_mean = total(weighted, False) / divisor(number)
    high, low = two_sum(reference, of_mean)
    moving = (running_mean, running_var, missed, tracked, momentum)
    m2 = about_mean(total(m2, False), number, of_mean)
    settle(number, high, low, m2, channel, exists, first, vectors, channels, eps, moving)


@triton.jit
def _weighted(at, field, there, reference):
    count = tl.load(at, mask=there, other=0.0)
    return tl.where(count > 0, count * _delta(at, field, there, reference), 0.0)


@triton.jit
def _delta(at, field, there, reference):
    high = tl.load(at + field, mask=there, other=0.0)
    low = tl.load(at + 2 * field, mask=there, other=0.0)
    return (high - reference) + low


@triton.jit
def normalize_kernel(
    x,  # (rows, ...) the input
    y,  # like x, out
    residual,  # like x, or None
    signs,  # bytes out, or None
    weight,  # (channels,) or None
    bias,  # (channels,) or None
    vectors,  # (4, channels); out where there are running statistics
    running_mean,  # (channels,) to normalize by, or None
    running_var,
    rows,
    units,
    channels,
    inner,
    split_rows,
    split_tiles,
    column_splits,
    eps,
    ACT: tl.constexpr,
    PLANES: tl.constexpr,
    TR: tl.constexpr,
    TC: tl.constexpr,
    ALIGN: tl.constexpr,
):
    """Normalize by vectors, or by running statistics, and do what follows."""
    # Backwards: what the kernel before has read last is still in the cache.
    block = tl.num_programs(0) - 1 - tl.program_id(0)
    split = tl.num_programs(1) - 1 - tl.program_id(1)
    matrix = (rows, units * ALIGN, channels, inner)
    cut = (split_rows, split_tiles, column_splits)
    here = rectangle(block, split, matrix, cut, PLANES, TC)
    channel, _, exists = lanes_of(here, PLANES, TC)
    if running_mean is not None:
        mean = tl.load(running_mean + channel, mask=exists, other=0.0)
        var = tl.load(running_var + channel, mask=exists, other=1.0)
        low, invstd = tl.zeros_like(mean), inverse_root(var + eps)
        if split == 0:
            write_vectors(vectors, mean, low, var, invstd, channel, exists, channels)
    else:
        mean = tl.load(vectors + channel, mask=exists, other=0.0)
        low = tl.load(vectors + channels + channel, mask=exists, other=0.0)
        invstd = tl.load(vectors + 3 * channels + channel, mask=exists, other=0.0)
    by = affine_of(mean, low, invstd, weight, bias, channel, exists)
    normalize_rectangle(x, y, residual, signs, by, here, ACT, PLANES, TR, TC)


@triton.jit
def train_kernel(
    x,  # (rows, ...) the input
    y,  # like x, out
    residual,  # like x, or None
    signs,  # bytes out, or None
    weight,  # (channels,) or None
    bias,  # (channels,) or None
    vectors,  # (4, channels) out
    running_mean,  # (channels,) to move, or None; so are the next
    running_var,
    missed,
    tracked,
    momentum,
    rows,
    units,
    channels,
    inner,
    eps,
    ACT: tl.constexpr,
    PLANES: tl.constexpr,
    TR: tl.constexpr,
    TC: tl.constexpr,
    ALIGN: tl.constexpr,
    STAGES: tl.constexpr,
):
    """Do all of it where a program has all values of its channels."""
    block = tl.program_id(0)
    here = whole(block, rows, units * ALIGN, channels, inner, PLANES, TC)
    number, high, low, m2 = moments_of(x, None, here, 1, PLANES, TR, TC, STAGES)
    channel, _, exists = lanes_of(here, PLANES, TC)
    moving = (running_mean, running_var, missed, tracked, momentum)
    first = block == 0
    invstd = settle(number, high, low, m2, channel, exists, first, vectors, channels, eps, moving)
    by = affine_of(high, low, invstd, weight, bias, channel, exists)
    normalize_rectangle(x, y, residual, signs, by, here, ACT, PLANES, TR, TC)


@triton.jit
def affine_of(mean, low, invstd, weight, bias, channel, exists):
    """Give mean, scale and offset, for z = (x − mean)·scale + offset."""
    scale = invstd
    if weight is not None:
        scale = invstd * tl.load(weight + channel, mask=exists, other=0.0).to(tl.float32)
    offset = tl.zeros_like(scale)
    if bias is not None:
        offset = tl.load(bias + channel, mask=exists, other=0.0).to(tl.float32)
    return mean, scale, tl.fma(-low, scale, offset)


@triton.jit
def normalize_rectangle(
    x,
    y,
    residual,
    signs,
    by,
    here,
    ACT: tl.constexpr,
    PLANES: tl.constexpr,
    TR: tl.constexpr,
    TC: tl.constexpr,
):
    """Write the output of a rectangle; `by` is mean, scale and offset."""
    _, row, _, column, _, _, _, _ = here
    mean, scale, offset = by
    places = within(here, PLANES, TR, TC)
    for _ in range(tiles_of(here, TR, TC)):
        there = inside(here, row, column, TR, TC)
        origin = first_at(here, row, column, PLANES)
        values = tl.load(x + origin + places, mask=there, other=0.0).to(tl.float32)
        # Written out, so that the backward pass has the same z, and sign, to the last bit.
        z = tl.fma(values - mean, scale, offset)
        if residual is not None:
            z += tl.load(residual + origin + places, mask=there, other=0.0).to(tl.float32)
        tl.store(y + origin + places, value(z, ACT).to(y.dtype.element_ty), mask=there)
        if signs is not None:
            at, some = signs_at(signs, here, row, column, PLANES, TR, TC)
            tl.store(at, pack_signs(passes(z, ACT), TR, TC), mask=some)
        row, column = following(here, row, column, TR, TC)
