"""Moments of every channel: of a program's values, merged over programs, and what is made of them.

Each place of a tile subtracts the first of its own values from all of them, so a large mean costs
no precision, whatever lies where, and a constant channel comes out exact. Then

    place:    n, e = Σw(x − shift)/n, m2 = Σw(x − shift)² − n·e²
    channel:  mean = reference + δ̄,  δ̄ = Σ n·δ / Σ n,  δ = (shift − reference) + e
              m2 = Σ m2 + Σ n·δ² − Σ n·δ̄²

with one of the shifts for reference at first, and then with the mean that this gives, so that δ̄ is
next to 0. Programs are merged by the same two lines.

Source: Chan, Golub & LeVeque 1983, The American Statistician 37(3), section 3 for the shift,
equation 1.5 for the merge.
"""

import triton
import triton.language as tl

from .tiles import (
    counts,
    first_at,
    following,
    inside,
    largest,
    shares_at,
    tiles_of,
    total,
    within,
)


@triton.jit
def moments_of(
    x,
    share,
    here,
    each,
    PLANES: tl.constexpr,
    TR: tl.constexpr,
    TC: tl.constexpr,
    STAGES: tl.constexpr,
):
    """Compute count, mean, what it lacks, and m2 of the channels of a rectangle."""
    _, row, _, column, _, _, _, _ = here
    places = within(here, PLANES, TR, TC)
    count = tl.zeros([TR, TC], tl.float32)
    shift = tl.zeros([TR, TC], tl.float32)
    sum1 = tl.zeros([TR, TC], tl.float32)
    sum2 = tl.zeros([TR, TC], tl.float32)
    if share is None:
        # A place that has values at all has one in the first tile.
        there = inside(here, row, column, TR, TC)
        at = x + first_at(here, row, column, PLANES)
        shift = tl.load(at + places, mask=there, other=0.0).to(tl.float32)
    for _ in tl.range(0, tiles_of(here, TR, TC), num_stages=STAGES):
        there = inside(here, row, column, TR, TC)
        at = x + first_at(here, row, column, PLANES)
        values = tl.load(at + places, mask=there, other=0.0).to(tl.float32)
        if share is None:
            deviation = tl.where(there, values - shift, 0.0)
            sum1 += deviation
            sum2 = tl.fma(deviation, deviation, sum2)
        else:
            weight = shares_at(share, here, row, column, each, there, PLANES, TR, TC)
            shift = tl.where(count == 0, values, shift)
            deviation = tl.where(weight > 0, values - shift, 0.0)
            count += weight
            sum1 = tl.fma(weight, deviation, sum1)
            sum2 = tl.fma(weight * deviation, deviation, sum2)
        row, column = following(here, row, column, TR, TC)
    if share is None:
        count = counts(here, TR, TC)
    return _of_places(count, shift, sum1, sum2, PLANES)


@triton.jit
def _of_places(count, shift, sum1, sum2, PLANES: tl.constexpr):
    mean = sum1 / divisor(count)
    m2 = sum2 - sum1 * mean
    m2 = tl.where(m2 < 0, 0.0, m2)  # NaN stays NaN
    reference, number = reference_of(count, shift, PLANES)
    delta = tl.where(count > 0, (shift - reference) + mean, 0.0)
    # The largest shift may be far from all others; what is near the mean loses no digits.
    reference += total(count * delta, PLANES) / divisor(number)
    delta = tl.where(count > 0, (shift - reference) + mean, 0.0)
    of_mean = total(count * delta, PLANES) / divisor(number)
    m2 = total(m2 + count * delta * delta, PLANES)
    high, low = two_sum(reference, of_mean)
    return number, high, low, about_mean(m2, number, of_mean)


@triton.jit
def reference_of(count, means, PLANES: tl.constexpr):
    """Choose one of the means, and count; 0 where there is nothing."""
    number = total(count, PLANES)
    reference = largest(tl.where(count > 0, means, float("-inf")), PLANES)
    return tl.where(number > 0, reference, 0.0), number


@triton.jit
def about_mean(m2, number, of_mean):
    """Make of squared deviations from a reference those from a mean that is next to it."""
    m2 -= number * of_mean * of_mean
    return tl.where(m2 < 0, 0.0, m2)


@triton.jit
def divisor(count):
    """Make of nothing a count that can divide it."""
    return tl.where(count > 0, count, 1.0)


@triton.jit
def two_sum(a, b):
    """Add two numbers; give the rounded sum, and what it lacks.

    Source: Knuth, The Art of Computer Programming, volume 2, section 4.2.2, theorem B.
    """
    both = a + b
    part = both - a
    return both, (a - (both - part)) + (b - part)


@triton.jit
def settle(number, high, low, m2, channel, exists, first, vectors, channels, eps, moving):
    """Write the vectors, move the running statistics; give 1/√(variance + eps)."""
    var = m2 / divisor(number)
    invstd = inverse_root(var + eps)
    write_vectors(vectors, high, low, var, invstd, channel, exists, channels)
    running_mean, running_var, missed, tracked, momentum = moving
    if running_mean is not None:
        unbiased = m2 / (number - 1)
        finite = (tl.abs(high) < float("inf")) & (tl.abs(unbiased) < float("inf"))
        take = exists
        if missed is not None:
            take = exists & finite
            before = tl.load(missed + channel, mask=exists, other=0)
            tl.store(missed + channel, before + 1, mask=exists & (finite == 0))
        move(running_mean, high, momentum, channel, take)
        move(running_var, unbiased, momentum, channel, take)
    if tracked is not None:
        tl.store(tracked, tl.load(tracked) + 1, mask=first)
    return invstd


@triton.jit
def inverse_root(x):
    """Compute 1/√x, rounded twice; the quick form is off by some ulp."""
    return tl.div_rn(tl.full(x.shape, 1.0, tl.float32), tl.sqrt_rn(x))


@triton.jit
def write_vectors(vectors, mean, low, var, invstd, channel, exists, channels):
    """Write the four rows."""
    tl.store(vectors + channel, mean, mask=exists)
    tl.store(vectors + channels + channel, low, mask=exists)
    tl.store(vectors + 2 * channels + channel, var, mask=exists)
    tl.store(vectors + 3 * channels + channel, invstd, mask=exists)


@triton.jit
def move(running, new, momentum, channel, take):
    """Move running statistics towards new ones."""
    old = tl.load(running + channel, mask=take, other=0.0)
    tl.store(running + channel, (1 - momentum) * old + momentum * new, mask=take)
