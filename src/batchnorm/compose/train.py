"""Normalization by the statistics of the batch."""

import math

import torch
from torch import Tensor

from .. import checks, shapes
from ..checks import can_read, shape_text
from ..errors import StatisticsError
from ..moments import Estimate, Moments, statistics_dtype
from ..ops import normalize
from ..ops.affine import Affine
from ..weights import weigh
from .batch import Batch, check, zeroed
from .evaluate import by_constants
from .options import Options, Pair, corrected


def train(
    x: Tensor,
    after: Affine,
    options: Options,
    running: Pair | None = None,
    mask: Tensor | None = None,
    sample_weight: Tensor | None = None,
) -> tuple[Tensor, Estimate | None]:
    """Normalize by the statistics of x; see `functional.batch_norm`.

    Returns:
        The output, and what running statistics are to be moved towards; None for an empty batch.
    """
    check(x, running, after, options.eps, mask)
    checks.check_sample_weight(x, mask, sample_weight)
    checks.check_virtual_batch_size(options.virtual_batch_size)
    if x.numel() == 0:
        nothing = torch.ones(x.shape[1], dtype=statistics_dtype(x), device=x.device)
        return by_constants(x, (nothing, nothing), after, options.eps), None
    batch = Batch.of(x, after, mask, sample_weight)
    y, estimate = _by_batch(batch, options)
    if estimate.finite is False and x.dtype is not torch.float64:
        y, estimate = mended((y, estimate), _by_batch(batch.double(), options))
    return zeroed(y, batch.drop), estimate


def _by_batch(batch: Batch, options: Options) -> tuple[Tensor, Estimate]:
    """Normalize every virtual batch by itself; estimate from all of them."""
    if options.virtual_batch_size is None:
        return _whole(batch, options)
    runs = shapes.virtual_batches(batch.x.shape, options.virtual_batch_size)
    # Sizes differ by at most 1, so there are one or two runs of equal chunks.
    pieces = batch.split([samples for samples, _ in runs])
    outputs = []
    for piece, (_, chunks) in zip(pieces, runs, strict=True):
        y, estimate = _whole(piece.fold(chunks), options)
        outputs.append(y if chunks == 1 else shapes.unfold_chunks(y, like=piece.x))
    if sum(chunks for _, chunks in runs) > 1:
        estimate = _estimate(batch.x.detach(), batch.weights)
    return torch.cat(outputs) if len(outputs) > 1 else outputs[0], estimate


def _whole(batch: Batch, options: Options) -> tuple[Tensor, Estimate]:
    if batch.weights is not None:
        return _weighted(batch, batch.weights, options)
    x, after = batch.x, batch.after
    count = shapes.count_per_channel(x.shape)
    if count == 1:
        return _single(x, after, options)
    if options.correct is not None:
        after = corrected(after, options.correct(*normalize.stats(x)))
    y, mean, var = normalize.by_batch(x, after, options.eps)
    return y, Estimate(mean, var, count, count, is_finite(mean, var))


def _weighted(batch: Batch, weights: Tensor, options: Options) -> tuple[Tensor, Estimate]:
    count, effective, share = weigh(weights)
    if options.otherwise is None and can_read(weights):
        _refuse_single(batch, weights)
    x, after, chunks = batch.x, batch.after, weights.shape[1]
    each = shapes.num_channels(x) // chunks
    count, effective = count.repeat_interleave(each), effective.repeat_interleave(each)
    known = effective > 1
    otherwise = None
    if options.otherwise is not None:
        mean, var = (t.detach().to(count.dtype).repeat(chunks) for t in options.otherwise)
        otherwise = mean, var
    if options.correct is not None:
        r, d = options.correct(*normalize.stats(x, share))
        after = corrected(after, (torch.where(known, r, 1), torch.where(known, d, 0)))
    y, mean, var = normalize.by_shares(x, share, known, otherwise, after, options.eps)
    moments = Moments(count, mean.detach(), var.detach() * count, effective)
    return y, _looked_at(moments.estimate())


def _single(x: Tensor, after: Affine, options: Options) -> tuple[Tensor, Estimate]:
    """One value per channel: it has a mean, and no variance."""
    if options.otherwise is None:
        raise StatisticsError(
            f"expected more than 1 value per channel in training, found 1 "
            f"(input {shape_text(x.shape)}); use a larger batch, drop the last incomplete one "
            f'(DataLoader(drop_last=True)), choose degenerate="running", or call .eval() to use '
            f"the running statistics"
        )
    y = by_constants(x, options.otherwise, after, options.eps)
    mean = x.detach().flatten().to(statistics_dtype(x))
    return y, Estimate(mean, torch.full_like(mean, math.nan), 1, 1)


def _refuse_single(batch: Batch, weights: Tensor) -> None:
    dims = shapes.reduce_dims(weights.dim())
    values = (weights > 0).sum(dims)
    drop = batch.drop
    there = torch.ones_like(weights) if drop is None else ~drop.expand_as(weights)
    few = (values <= 1) & (there.sum(dims) > 0)
    if few.any():
        where = "" if weights.shape[1] == 1 else " in every virtual batch"
        raise StatisticsError(
            f"expected more than 1 value per channel that mask and sample_weight let count"
            f"{where} in training, found {int(values[few].min())} "
            f"(input {shape_text(batch.x.shape)}); use a larger batch, or choose "
            'degenerate="running" to use the running statistics there'
        )


def _estimate(x: Tensor, weights: Tensor | None) -> Estimate:
    """What the whole batch says, without normalizing it."""
    if weights is not None:
        return _looked_at(Moments.weighted(x, weights).estimate())
    mean, var = normalize.stats(x)
    count = shapes.count_per_channel(x.shape)
    var = var * (count / (count - 1))
    return Estimate(mean, var, count, count, is_finite(mean, var))


def is_finite(mean: Tensor, var: Tensor) -> bool | None:
    """Whether all are finite: a product with something that is not, and a sum with that, is not.

    None where to look would mean to wait. A false alarm, by overflow, costs time only.
    """
    return math.isfinite(torch.dot(mean, var).item()) if can_read(mean) else None


def _looked_at(estimate: Estimate) -> Estimate:
    if not can_read(estimate.mean):
        return estimate
    return estimate._replace(finite=not bool(_lost(estimate).any()))


def mended(
    result: tuple[Tensor, Estimate], in_double: tuple[Tensor, Estimate]
) -> tuple[Tensor, Estimate]:
    """Take what float64 makes of squares beyond the range of float32, as are those of 1e30."""
    (y, estimate), (wide_y, wide) = result, in_double
    mean, var = wide.mean.to(estimate.mean.dtype), wide.var.to(estimate.var.dtype)
    # Not channel by channel: in the backward pass, the other choice would add 0·NaN.
    if bool((_lost(estimate) & ~_lost(wide)).any()):
        return wide_y.to(y.dtype), wide._replace(mean=mean, var=var, finite=None)
    return result


def _lost(estimate: Estimate) -> Tensor:
    known = torch.as_tensor(estimate.known)
    return ~(estimate.mean.isfinite() & (estimate.var.isfinite() | ~known))
