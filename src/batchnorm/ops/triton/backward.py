"""The kernels of the backward pass; their arguments are as in `forward`."""

import triton
import triton.language as tl

from .activations import gradient, gradient_by_sign
from .forward import affine_of
from .tiles import (
    first_at,
    following,
    inside,
    lanes_of,
    parts_at,
    rectangle,
    shares_at,
    signs_at,
    tiles_of,
    total,
    unpack_signs,
    whole,
    within,
)


@triton.jit
def reduce_kernel(
    grad_y,  # like x
    x,  # (rows, ...) the input
    residual,  # like x, or None
    signs,  # bytes, or None
    weight,  # (channels,) or None
    bias,  # (channels,) or None
    vectors,  # (4, channels)
    parts,  # (2, splits, lanes) out: Σ dz and Σ dz·(x − mean)
    rows,
    units,
    channels,
    inner,
    split_rows,
    split_tiles,
    column_splits,
    ACT: tl.constexpr,
    PLANES: tl.constexpr,
    TR: tl.constexpr,
    TC: tl.constexpr,
    ALIGN: tl.constexpr,
    STAGES: tl.constexpr,
):
    """Compute the sums of every split."""
    block, split = tl.program_id(0), tl.program_id(1)
    matrix = (rows, units * ALIGN, channels, inner)
    cut = (split_rows, split_tiles, column_splits)
    here = rectangle(block, split, matrix, cut, PLANES, TC)
    channel, lane, exists = lanes_of(here, PLANES, TC)
    mean, low, invstd = _vectors_of(vectors, channel, exists, channels)
    by = affine_of(mean, low, invstd, weight, bias, channel, exists)
    of_dz, of_dz_xmu = _sums_of((grad_y, x, residual, signs), by, here, ACT, PLANES, TR, TC, STAGES)
    lanes = channels if PLANES else units * ALIGN
    at = parts + split * lanes + lane
    tl.store(at, of_dz, mask=exists)
    tl.store(at + tl.num_programs(1) * lanes, of_dz_xmu, mask=exists)


@triton.jit
def total_kernel(
    parts,  # (2, splits, channels, inner): a lane is a channel's, or one of its `inner`
    splits,
    channels,
    inner,
    vectors,  # (4, channels)
    sums,  # (2, channels) out: Σ dz and Σ dz·x̂
    PARTS: tl.constexpr,  # of a tile
    CHANNELS: tl.constexpr,
):
    """Add the sums of all lanes of a channel in a fixed order."""
    channel = (tl.program_id(0) * CHANNELS + tl.arange(0, CHANNELS))[None, :]
    exists = channel < channels
    of_dz = tl.zeros([PARTS, CHANNELS], tl.float32)
    of_dz_xmu = tl.zeros([PARTS, CHANNELS], tl.float32)
    for start in range(0, splits * inner, PARTS):
        at, there = parts_at(parts, start, splits * inner, channel, channels, inner, PARTS)
        of_dz += tl.load(at, mask=there, other=0.0)
        of_dz_xmu += tl.load(at + splits * channels * inner, mask=there, other=0.0)
    _, low, invstd = _vectors_of(vectors, channel, exists, channels)
    _write_sums(
        sums, total(of_dz, False), total(of_dz_xmu, False), low, invstd, channel, exists, channels
    )


@triton.jit
def elemt_kernel(
    grad_y,  # like x
    x,  # (rows, ...) the input
    residual,  # like x, or None
    signs,  # bytes, or None
    weight,  # (channels,) or None
    bias,  # (channels,) or None
    vectors,  # (4, channels)
    sums,  # (2, channels) over all values of the statistics, or None where these are constants
    share,  # (rows, groups, columns) or (rows, groups), or None
    each,  # channels of a group
    portion,  # multiplies the sums
    grad_x,  # like x, out, or None
    grad_residual,  # like x, out, or None
    rows,
    units,
    channels,
    inner,
    split_rows,
    split_tiles,
    column_splits,
    ACT: tl.constexpr,
    PLANES: tl.constexpr,
    TR: tl.constexpr,
    TC: tl.constexpr,
    ALIGN: tl.constexpr,
):
    """Compute the gradients of the input and of the residual from the sums."""
    # Backwards: what the kernel before has read last is still in the cache.
    block = tl.num_programs(0) - 1 - tl.program_id(0)
    split = tl.num_programs(1) - 1 - tl.program_id(1)
    matrix = (rows, units * ALIGN, channels, inner)
    cut = (split_rows, split_tiles, column_splits)
    here = rectangle(block, split, matrix, cut, PLANES, TC)
    channel, _, exists = lanes_of(here, PLANES, TC)
    mean, low, invstd = _vectors_of(vectors, channel, exists, channels)
    by = affine_of(mean, low, invstd, weight, bias, channel, exists)
    slope, shift = tl.zeros_like(invstd), tl.zeros_like(invstd)
    if sums is not None:
        of_dz = tl.load(sums + channel, mask=exists, other=0.0)
        of_dz_x_hat = tl.load(sums + channels + channel, mask=exists, other=0.0)
        slope, shift = _through_statistics(of_dz, of_dz_x_hat, low, invstd, by, portion)
    _elemt_rectangle(
        (grad_y, x, residual, signs),
        (grad_x, grad_residual),
        by,
        (slope, shift),
        (share, each),
        here,
        ACT,
        PLANES,
        TR,
        TC,
    )


@triton.jit
def backward_kernel(
    grad_y,  # like x
    x,  # (rows, ...) the input
    residual,  # like x, or None
    signs,  # bytes, or None
    weight,  # (channels,) or None
    bias,  # (channels,) or None
    vectors,  # (4, channels)
    sums,  # (2, channels) out: Σ dz and Σ dz·x̂
    portion,  # one by the number of values of a channel
    grad_x,  # like x, out
    grad_residual,  # like x, out, or None
    rows,
    units,
    channels,
    inner,
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
    channel, _, exists = lanes_of(here, PLANES, TC)
    mean, low, invstd = _vectors_of(vectors, channel, exists, channels)
    by = affine_of(mean, low, invstd, weight, bias, channel, exists)
    of_dz, of_dz_xmu = _sums_of((grad_y, x, residual, signs), by, here, ACT, PLANES, TR, TC, STAGES)
    of_dz_x_hat = _write_sums(sums, of_dz, of_dz_xmu, low, invstd, channel, exists, channels)
    slope, shift = _through_statistics(of_dz, of_dz_x_hat, low, invstd, by, portion)
    _elemt_rectangle(
        (grad_y, x, residual, signs),
        (grad_x, grad_residual),
        by,
        (slope, shift),
        (None, 1),
        here,
        ACT,
        PLANES,
        TR,
        TC,
    )


@triton.jit
def _vectors_of(vectors, channel, exists, channels):
    mean = tl.load(vectors + channel, mask=exists, other=0.0)
    low = tl.load(vectors + channels + channel, mask=exists, other=0.0)
    invstd = tl.load(vectors + 3 * channels + channel, mask=exists, other=0.0)
    return mean, low, invstd


@triton.jit
def _write_sums(sums, of_dz, of_dz_xmu, low, invstd, channel, exists, channels):
    of_dz_x_hat = (of_dz_xmu - low * of_dz) * invstd
    tl.store(sums + channel, of_dz, mask=exists)
    tl.store(sums + channels + channel, of_dz_x_hat, mask=exists)
    return of_dz_x_hat


@triton.jit
def _through_statistics(of_dz, of_dz_x_hat, low, invstd, by, portion):
    """Sort −(Σ dz + x̂·Σ dz·x̂)·portion·scale into (x − mean)·slope + shift."""
    _, scale, _ = by
    slope = -portion * of_dz_x_hat * invstd * scale
    return slope, -portion * of_dz * scale - low * slope


@triton.jit
def _sums_of(
    inputs,
    by,
    here,
    ACT: tl.constexpr,
    PLANES: tl.constexpr,
    TR: tl.constexpr,
    TC: tl.constexpr,
    STAGES: tl.constexpr,
):
    """Compute Σ dz and Σ dz·(x − mean) of the channels of a rectangle."""
    _, row, _, column, _, _, _, _ = here
    places = within(here, PLANES, TR, TC)
    of_dz = tl.zeros([TR, TC], tl.float32)
    of_dz_xmu = tl.zeros([TR, TC], tl.float32)
    for _ in tl.range(0, tiles_of(here, TR, TC), num_stages=STAGES):
        there = inside(here, row, column, TR, TC)
        at = first_at(here, row, column, PLANES) + places
        dz, xmu = _before(inputs, by, here, row, column, at, there, ACT, PLANES, TR, TC)
        of_dz += dz
        of_dz_xmu = tl.fma(dz, xmu, of_dz_xmu)
        row, column = following(here, row, column, TR, TC)
    return total(of_dz, PLANES), total(of_dz_xmu, PLANES)


@triton.jit
def _elemt_rectangle(
    inputs,
    outputs,
    by,
    through_statistics,
    shares,
    here,
    ACT: tl.constexpr,
    PLANES: tl.constexpr,
    TR: tl.constexpr,
    TC: tl.constexpr,
):
    """Write the gradients of a rectangle."""
    _, row, _, column, _, _, _, _ = here
    grad_x, grad_residual = outputs
    slope, shift = through_statistics
    share, each = shares
    _, scale, _ = by
    places = within(here, PLANES, TR, TC)
    for _ in range(tiles_of(here, TR, TC)):
        there = inside(here, row, column, TR, TC)
        at = first_at(here, row, column, PLANES) + places
        dz, xmu = _before(inputs, by, here, row, column, at, there, ACT, PLANES, TR, TC)
        if grad_residual is not None:
            tl.store(grad_residual + at, dz.to(grad_residual.dtype.element_ty), mask=there)
        if grad_x is not None:
            through = tl.fma(xmu, slope, shift)
            if share is not None:
                through *= shares_at(share, here, row, column, each, there, PLANES, TR, TC)
            of_x = tl.fma(dz, scale, through)
            tl.store(grad_x + at, of_x.to(grad_x.dtype.element_ty), mask=there)
        row, column = following(here, row, column, TR, TC)


@triton.jit
def _before(
    inputs,
    by,
    here,
    row,
    column,
    at,
    there,
    ACT: tl.constexpr,
    PLANES: tl.constexpr,
    TR: tl.constexpr,
    TC: tl.constexpr,
):
    """Give the gradient before the activation, and x − mean; 0 where nothing is."""
    grad_y, x, residual, signs = inputs
    mean, scale, offset = by
    dz = tl.load(grad_y + at, mask=there, other=0.0).to(tl.float32)
    xmu = tl.where(there, tl.load(x + at, mask=there, other=0.0).to(tl.float32) - mean, 0.0)
    if signs is not None:
        bytes, some = signs_at(signs, here, row, column, PLANES, TR, TC)
        passed = unpack_signs(tl.load(bytes, mask=some, other=0), TR, TC)
        dz = gradient_by_sign(dz, passed, ACT)
    elif ACT is not None:
        # As in the forward pass, to the last bit.
        z = tl.fma(xmu, scale, offset)
        if residual is not None:
            z += tl.load(residual + at, mask=there, other=0.0).to(tl.float32)
        dz = gradient(dz, z, ACT)
    return dz, xmu
