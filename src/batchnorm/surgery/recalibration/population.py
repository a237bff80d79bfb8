"""The moments of all the values that a layer is given, pooled in float64."""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from ... import shapes
from ...moments import Moments, mean_and_var
from ...ops import normalize

NEAR = 64.0
"""Largest mean²/variance at which the mean of a batch may be rounded to float32.

The rounding, up to 2^-25·8 = 2^-22 standard deviations, enters the pooled variance times twice the
distance of the batch's mean from that of all: by up to 2^-21 where that is a standard deviation.
"""


def measure(x: Tensor, mask: Tensor | None = None, sample_weight: Tensor | None = None) -> Moments:
    """Compute the moments of every channel, in float64.

    On the CPU the kernels do it, in one or two passes over the memory, and round the result to
    float32; channels whose mean is far from 0, or whose squares overflow, are then done again.

    Args:
        x: Values (N, C, *S), not empty.
        mask: Which count, bool (N,) or (N, *S).
        sample_weight: How much they count, (N,) or (N, *S).

    Returns:
        Moments (C,) in float64.

    Example:
        >>> measure(torch.tensor([[1.0], [3.0]])).m2
        tensor([2.], dtype=torch.float64)
    """
    x = x.detach()
    if mask is not None or sample_weight is not None:
        return Moments.of(_wide(x), mask, sample_weight)
    count = shapes.count_per_channel(x.shape)
    if not x.is_cpu or x.dtype is torch.float64:
        return Moments.from_var(count, *_in_float64(x))
    mean, var = map(_wide, normalize.stats(x))
    far = ~(mean.square() <= NEAR * var) | ~var.isfinite()
    if bool(far.any()):
        mean[far], var[far] = _in_float64(x[:, far])
    return Moments.from_var(count, mean, var)


def _in_float64(x: Tensor) -> tuple[Tensor, Tensor]:
    if x.is_cpu:
        return mean_and_var(_wide(x))
    # On other devices one kernel, and one copy in memory, instead of several.
    var, mean = torch.var_mean(_wide(x), shapes.reduce_dims(x.dim()), correction=0)
    return mean, var


def _wide(x: Tensor) -> Tensor:
    return (x.cpu() if x.device.type == "mps" else x).double()  # that device has no float64


@dataclass(eq=False)
class Population:
    """What is known of all inputs of a layer so far.

    Args:
        moments: Of all calls, (C,) in float64.
        before: Running mean and variance of the layer, (C,) in float64.
        left_out: How often each channel was left out for NaN or infinity, (C,).
        batches: How many batches had a call with values.
        called: Whether the batch at hand has had one.
    """

    moments: Moments
    before: tuple[Tensor, Tensor]
    left_out: Tensor
    batches: int = 0
    called: bool = False

    @classmethod
    def empty(cls, running_mean: Tensor, running_var: Tensor) -> Self:
        """Know nothing yet about the inputs of a layer with these statistics."""
        mean, var = (_wide(t).clone() for t in (running_mean, running_var))
        zero = torch.zeros_like(mean)
        return cls(Moments(zero, zero, zero), (mean, var), zero.to(torch.int64))

    def add(self, moments: Moments, skip_nonfinite: bool = True) -> Tensor:
        """Merge what a call has seen; return which channels are not finite."""
        lost = ~(moments.mean.isfinite() & moments.m2.isfinite())
        if skip_nonfinite:
            moments = Moments(*(None if t is None else t.masked_fill(lost, 0) for t in moments))  # type: ignore[arg-type]
            self.left_out += lost
        self.moments = self.moments.merge(moments)
        self.called = True
        return lost

    def end_batch(self) -> None:
        """Count a batch, however often the layer was called in it."""
        self.batches += self.called
        self.called = False

    def statistics(self) -> tuple[Tensor, Tensor, Tensor]:
        """Give mean and variance (correction 1), and in which channels there are any.

        Where there are none, they are those of before.
        """
        mean, var, _, effective, _ = self.moments.estimate()
        known = torch.as_tensor(effective > 1)
        pairs = zip((mean, var), self.before, strict=True)
        mean, var = (torch.where(known, new, old) for new, old in pairs)
        return mean, var, known

    def unless(self, known: Tensor, mean: Tensor, var: Tensor) -> tuple[Tensor, Tensor]:
        """Put what is known so far where a batch itself does not tell."""
        so_far = self.statistics()
        return torch.where(known, mean, so_far[0]), torch.where(known, var, so_far[1])


def distance(
    old: tuple[Tensor, Tensor], new: tuple[Tensor, Tensor], eps: float
) -> tuple[Tensor, Tensor]:
    """Tell how far statistics moved, channel by channel.

    Args:
        old: Mean and variance before.
        new: Mean and variance after.
        eps: The layer's; it is part of every standard deviation the layer divides by.

    Returns:
        |change of the mean| in old standard deviations, and log(new / old variance).
    """
    (old_mean, old_var), (mean, var) = (tuple(map(_wide, pair)) for pair in (old, new))
    shift = (mean - old_mean).abs() / (old_var + eps).sqrt()
    return shift, ((var + eps) / (old_var + eps)).log()


class Convergence:
    """Whether more batches would still change anything.

    Populations are compared with what they were at half the batches. The difference of the two
    means has about the standard deviation that the mean itself still has, so this is an estimate
    of the error that is left, not of the ever smaller step of one more batch.

    Args:
        tolerance: The largest change that counts as none: of a mean in standard deviations, and
            of a logarithm of a variance, in every channel of every layer.
    """

    FIRST = 4
    """Batches before the statistics are kept for the first time."""

    def __init__(self, tolerance: float) -> None:
        self.tolerance = tolerance
        self.next = self.FIRST
        self.kept: dict[str, tuple[Tensor, Tensor]] = {}

    def reached(self, batches: int, populations: dict[str, tuple[Population, float]]) -> bool:
        """Look, after a number of batches that is a power of 2; else False.

        Args:
            batches: How many there were so far.
            populations: With the eps of the layer of each, by its name.
        """
        if batches < self.next:
            return False
        self.next *= 2
        before, self.kept = self.kept, {}
        still = bool(before)
        for name, (population, eps) in populations.items():
            mean, var, known = population.statistics()
            if not bool(known.any()):
                continue
            self.kept[name] = mean, var
            still = still and name in before and self._near(before[name], (mean, var), eps, known)
        return still

    def _near(
        self, old: tuple[Tensor, Tensor], new: tuple[Tensor, Tensor], eps: float, known: Tensor
    ) -> bool:
        moves = torch.stack(distance(old, new, eps)).abs()[:, known]
        return bool((moves <= self.tolerance).all())
