"""Where the moments come from, and what is made of them: every variant, composed of phases.

Masked positions are taken out first, then the batch is cut into virtual batches, whose chunks
become channels; each is normalized by its own moments, to which positions contribute by their
weights; renormalization is another scale and shift. None of them is a second normalizer.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from . import checks, shapes
from .checks import can_read, shape_text
from .errors import OptionError, StatisticsError
from .moments import Estimate, Moments, mean_and_var, statistics_dtype
from .ops import normalize
from .ops.layout import keep_format
from .ops.normalize import Affine
from .weights import of_positions, weigh

Pair = tuple[Tensor, Tensor]
"""A mean and a variance."""

Limits = tuple[float, float] | tuple[Tensor, Tensor]
"""r_max and d_max."""

Correct = Callable[[Tensor, Tensor], Pair]
"""From mean and variance (correction 0) of a batch to the r and d of batch renormalization."""


class Options(NamedTuple):
    """How the moments of a batch are to be taken.

    Args:
        eps: Added to the variance.
        virtual_batch_size: Samples per chunk that has moments of its own; None for one chunk.
        correct: Batch renormalization; None for none.
        otherwise: Mean and variance for a channel with one value; None to refuse it.
    """

    eps: float
    virtual_batch_size: int | None = None
    correct: Correct | None = None
    otherwise: Pair | None = None


def evaluate(
    x: Tensor, running: Pair | None, after: Affine, eps: float, mask: Tensor | None = None
) -> Tensor:
    """Normalize by running statistics; see `functional.batch_norm`."""
    if not checks.is_exporting():
        _check(x, running, after, eps, mask)
    if running is None:
        raise StatisticsError(
            "expected running_mean and running_var outside training, found None; pass them, or "
            "training=True to use the statistics of this batch"
        )
    drop = None if mask is None else ~shapes.as_positions(mask, x.dim())
    covered, after = _cover(x, after, drop)
    return _zeroed(_by_constants(covered, running, after, eps), drop)


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
    _check(x, running, after, options.eps, mask)
    checks.check_sample_weight(x, mask, sample_weight)
    checks.check_virtual_batch_size(options.virtual_batch_size)
    if x.numel() == 0:
        nothing = torch.ones(x.shape[1], dtype=statistics_dtype(x), device=x.device)
        return _by_constants(x, (nothing, nothing), after, options.eps), None
    drop = None if mask is None else ~shapes.as_positions(mask, x.dim())
    weights = of_positions(x, mask, sample_weight, statistics_dtype(x))
    covered, after = _cover(x, after, drop)
    y, batch = _by_batch(covered, weights, drop, after, options)
    if batch.finite is False and x.dtype is not torch.float64:
        in_double = _by_batch(covered.double(), _double(weights), drop, after, options)
        y, batch = _mended((y, batch), in_double)
    return _zeroed(y, drop), batch


def options(
    eps: float,
    running: Pair | None,
    virtual_batch_size: int | None = None,
    renorm: Limits | None = None,
    degenerate: str = "raise",
) -> Options:
    """Make options of the arguments of `functional.batch_norm`."""
    checks.check_choice("degenerate", degenerate, checks.DEGENERATE)
    if running is None and (renorm is not None or degenerate == "running"):
        name = "renorm" if renorm is not None else 'degenerate="running"'
        raise StatisticsError(f"{name} needs running_mean and running_var, found None")
    correct = None if renorm is None or running is None else correction(running, renorm, eps)
    return Options(eps, virtual_batch_size, correct, running if degenerate == "running" else None)


def correction(running: Pair, limits: Limits, eps: float) -> Correct:
    """Make of running statistics and the limits (r_max, d_max) what `Options.correct` is to be.

    r = clip(√(var + eps) / √(running_var + eps), 1/r_max, r_max) and
    d = clip((mean − running_mean) / √(running_var + eps), −d_max, d_max), constants both.

    Source: Ioffe 2017 (arXiv:1702.03275), Algorithm 1.
    """

    def correct(mean: Tensor, var: Tensor) -> Pair:
        # There may be several chunks of the same channels.
        running_mean, running_var = (t.detach().to(mean.dtype) for t in running)
        invstd = (running_var + eps).rsqrt()
        chunks = mean.view(-1, *running_mean.shape), var.view(-1, *running_mean.shape)
        r_max, d_max = (torch.as_tensor(t, dtype=mean.dtype, device=mean.device) for t in limits)
        r = (chunks[1] + eps).sqrt() * invstd
        d = (chunks[0] - running_mean) * invstd
        return r.clamp(1 / r_max, r_max).flatten(), d.clamp(-d_max, d_max).flatten()

    return correct


def _by_constants(x: Tensor, statistics: Pair, after: Affine, eps: float) -> Tensor:
    if checks.is_exporting():
        return _exported(x, statistics, after, eps)
    dtype = statistics_dtype(x)
    mean, var = (t.to(dtype) for t in statistics)
    return normalize.by_constants(x, mean, var, after, eps)


def _exported(x: Tensor, statistics: Pair, after: Affine, eps: float) -> Tensor:
    """Normalize by the one operation that other tools know by name, and fold."""
    dtype = statistics[0].dtype
    weight, bias = (
        t if t is None or t.dtype is dtype else t.to(dtype) for t in (after.weight, after.bias)
    )
    z = F.batch_norm(x, *statistics, weight, bias, eps=eps)
    return normalize.finish(z, after, x.dtype)


def _cover(x: Tensor, after: Affine, drop: Tensor | None) -> tuple[Tensor, Affine]:
    """Put zeros where nothing is to be seen: what is there could be NaN, and 0·NaN is that too."""
    if drop is None:
        return x, after
    if after.residual is not None:
        after = after._replace(residual=_zeroed(after.residual, drop))
    return _zeroed(x, drop), after


def _zeroed(y: Tensor, drop: Tensor | None) -> Tensor:
    return y if drop is None else torch.where(drop, 0, y)  # which keeps the memory format


def _double(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.double()


def _mended(
    result: tuple[Tensor, Estimate], in_double: tuple[Tensor, Estimate]
) -> tuple[Tensor, Estimate]:
    """Take the channels whose squares went beyond the range of float32, as those of 1e30 do."""
    (y, batch), (wide_y, wide) = result, in_double
    known = torch.as_tensor(batch.known)
    lost = ~(batch.mean.isfinite() & (batch.var.isfinite() | ~known))
    found = lost & wide.mean.isfinite() & (wide.var.isfinite() | ~known)
    y = torch.where(shapes.as_channels(found, y.dim()), wide_y.to(y.dtype), y)
    mean = torch.where(found, wide.mean.to(batch.mean.dtype), batch.mean)
    var = torch.where(found, wide.var.to(batch.var.dtype), batch.var)
    return y, batch._replace(mean=mean, var=var, finite=None)


def _by_batch(
    x: Tensor, weights: Tensor | None, drop: Tensor | None, after: Affine, options: Options
) -> tuple[Tensor, Estimate]:
    """Normalize every virtual batch by itself; estimate from all of them."""
    if options.virtual_batch_size is None:
        return _chunks(x, weights, drop, after, options, 1)
    runs = shapes.virtual_batches(x.shape, options.virtual_batch_size)
    # Sizes differ by at most 1, so there are one or two runs of equal chunks.
    sizes = [samples for samples, _ in runs]
    outputs = []
    for run, (_, chunks) in enumerate(runs):
        residual, weight, gone = (
            None if t is None else torch.split(t, sizes)[run]
            for t in (after.residual, weights, drop)
        )
        piece = torch.split(x, sizes)[run]
        y, batch = _chunks(piece, weight, gone, after._replace(residual=residual), options, chunks)
        outputs.append(y)
    if sum(chunks for _, chunks in runs) > 1:
        batch = _estimate(x.detach(), weights)
    return torch.cat(outputs) if len(outputs) > 1 else outputs[0], batch


def _chunks(
    x: Tensor,
    weights: Tensor | None,
    drop: Tensor | None,
    after: Affine,
    options: Options,
    chunks: int,
) -> tuple[Tensor, Estimate]:
    """Normalize equal chunks of consecutive samples, each by itself: they become channels."""
    if chunks == 1:
        return _whole(x, weights, drop, after, options)
    after = after._replace(
        weight=shapes.fold_vector(after.weight, chunks),
        bias=shapes.fold_vector(after.bias, chunks),
        residual=None
        if after.residual is None
        else shapes.fold_chunks(keep_format(after.residual), chunks),
    )
    if weights is not None:
        drop = None if drop is None else shapes.fold_chunks(drop.expand_as(weights), chunks)
        weights = shapes.fold_chunks(weights, chunks)
    folded = shapes.fold_chunks(keep_format(x), chunks)
    y, batch = _whole(folded, weights, drop, after, options)
    return shapes.unfold_chunks(y, like=x), batch


def _whole(
    x: Tensor, weights: Tensor | None, drop: Tensor | None, after: Affine, options: Options
) -> tuple[Tensor, Estimate]:
    if weights is not None:
        return _weighted(x, weights, drop, after, options)
    count = shapes.count_per_channel(x.shape)
    if count == 1:
        return _single(x, after, options)
    if options.correct is not None:
        after = _corrected(after, options.correct(*normalize.stats(x)))
    y, mean, var = normalize.by_batch(x, after, options.eps)
    return y, Estimate(mean, var, count, count, _finite(mean, var))


def _weighted(
    x: Tensor, weights: Tensor, drop: Tensor | None, after: Affine, options: Options
) -> tuple[Tensor, Estimate]:
    """Normalize by weighted moments; `weights` has one channel for all of one chunk."""
    count, effective, share = weigh(weights)
    if options.otherwise is None and can_read(weights):
        _refuse_single(x, weights, drop)
    chunks = weights.shape[1]
    each = shapes.num_channels(x) // chunks
    count, effective = count.repeat_interleave(each), effective.repeat_interleave(each)
    share = share if chunks == 1 else share.repeat_interleave(each, 1)
    known = effective > 1
    otherwise = None
    if options.otherwise is not None:
        mean, var = (t.detach().to(count.dtype).repeat(chunks) for t in options.otherwise)
        otherwise = mean, var
    if options.correct is not None:
        r, d = options.correct(*mean_and_var(x.detach(), share))
        after = _corrected(after, (torch.where(known, r, 1), torch.where(known, d, 0)))
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
    y = _by_constants(x, options.otherwise, after, options.eps)
    mean = x.detach().flatten().to(statistics_dtype(x))
    return y, Estimate(mean, torch.full_like(mean, math.nan), 1, 1)


def _refuse_single(x: Tensor, weights: Tensor, drop: Tensor | None) -> None:
    dims = shapes.reduce_dims(x.dim())
    values = (weights > 0).sum(dims)
    there = torch.ones_like(weights) if drop is None else ~drop.expand_as(weights)
    few = (values <= 1) & (there.sum(dims) > 0)
    if few.any():
        where = "" if weights.shape[1] == 1 else " in every virtual batch"
        raise StatisticsError(
            f"expected more than 1 value per channel that mask and sample_weight let count"
            f"{where} in training, found {int(values[few].min())} "
            f"(input {shape_text(x.shape)}); use a larger batch, or choose "
            'degenerate="running" to use the running statistics there'
        )


def _corrected(after: Affine, correction: Pair) -> Affine:
    """(x̂·r + d)·weight + bias is another scale and shift of x̂."""
    r, d = correction
    weight, bias = after.weight, after.bias
    if weight is not None:
        r, d = r * weight, d * weight
    return after._replace(weight=r, bias=d if bias is None else d + bias)


def _estimate(x: Tensor, weights: Tensor | None) -> Estimate:
    """What the whole batch says, without normalizing it."""
    if weights is not None:
        return _looked_at(Moments.weighted(x, weights).estimate())
    mean, var = normalize.stats(x)
    count = shapes.count_per_channel(x.shape)
    var = var * (count / (count - 1))
    return Estimate(mean, var, count, count, _finite(mean, var))


def _finite(mean: Tensor, var: Tensor) -> bool | None:
    """Whether all are finite: a product with something that is not, and a sum with that, is not.

    None where to look would mean to wait. A false alarm, by overflow, costs time only.
    """
    return math.isfinite(torch.dot(mean, var).item()) if can_read(mean) else None


def _looked_at(batch: Estimate) -> Estimate:
    if not can_read(batch.mean):
        return batch
    known = torch.as_tensor(batch.known)
    finite = batch.mean.isfinite() & (batch.var.isfinite() | ~known)
    return batch._replace(finite=bool(finite.all()))


def _check(x: Tensor, running: Pair | None, after: Affine, eps: float, mask: Tensor | None) -> None:
    if not eps > 0:
        raise OptionError(f"eps must be positive, found {eps}; the usual one is 1e-5")
    checks.check_input(x)
    running_mean, running_var = running or (None, None)
    vectors = {
        "running_mean": running_mean,
        "running_var": running_var,
        "weight": after.weight,
        "bias": after.bias,
    }
    checks.check_per_channel(x, vectors)
    checks.check_residual(x, after.residual)
    checks.check_mask(x, mask)
