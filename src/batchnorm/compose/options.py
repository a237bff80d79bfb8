"""How the moments of a batch are taken, and how batch renormalization corrects them."""

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from .. import checks
from ..errors import StatisticsError
from ..moments import number
from ..ops.affine import Affine

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
        r_max, d_max = (number(t, mean) for t in limits)
        r = (chunks[1] + eps).sqrt() * invstd
        d = (chunks[0] - running_mean) * invstd
        return r.clamp(1 / r_max, r_max).flatten(), d.clamp(-d_max, d_max).flatten()

    return correct


def corrected(after: Affine, correction: Pair) -> Affine:
    """Apply r and d: (x̂·r + d)·weight + bias is another scale and shift of x̂."""
    r, d = correction
    weight, bias = after.weight, after.bias
    if weight is not None:
        r, d = r * weight, d * weight
    return after._replace(weight=r, bias=d if bias is None else d + bias)
