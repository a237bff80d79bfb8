"""Count, mean and sum of squared deviations per channel: the mathematical core.

Every variant of batch normalization is a choice of where these come from. Nothing else in the
library computes a variance, except a kernel that fulfils the contract of `ops`.
"""

from typing import NamedTuple, Self

import torch
from torch import Tensor

from . import checks, shapes
from .weights import of_positions, weigh


class Moments(NamedTuple):
    """Count, mean and Σw(x − mean)² of every channel; merges exactly.

    Without weights every w is 1. Where the count is 0, mean and m2 are 0. The count has the dtype
    of the mean, so in float32 it is exact up to 2^24; take `Moments.of(x.double())` where more is
    needed.

    Attributes:
        count: Values per channel, Σw, (C,).
        mean: Their mean, (C,).
        m2: Their sum of squared deviations from it, (C,).
        effective: How many equally weighted values say as much about the population,
            (Σw)²/Σw², (C,); None where no value has a weight: the count.

    Example:
        >>> Moments.of(torch.tensor([[1.0], [3.0]])).merge(Moments.of(torch.tensor([[5.0]])))
        Moments(count=tensor([3.]), mean=tensor([3.]), m2=tensor([8.]), effective=None)

    Source: Chan, Golub & LeVeque 1983, The American Statistician 37(3), equation 1.5; Kish 1965,
    Survey Sampling, for the effective number.
    """

    # tuple.count is a method; here the field of the same name, by intent.
    count: Tensor  # type: ignore[assignment]
    mean: Tensor
    m2: Tensor
    effective: Tensor | None = None

    @classmethod
    def of(cls, x: Tensor, mask: Tensor | None = None, sample_weight: Tensor | None = None) -> Self:
        """Compute the moments of every channel of a tensor.

        Args:
            x: Values (N, C, *S) of any floating dtype; may be empty.
            mask: Which values count, bool (N,) or (N, *S).
            sample_weight: How much they count, floating (N,) or (N, *S), not negative.

        Returns:
            Moments of shape (C,) in float32, or in float64 for float64 input.

        Raises:
            ShapeError: `x` has fewer than two axes, or the shapes do not belong together.
            StatisticsError: A weight is negative or not finite, or all are 0.
            DtypeError: `mask` is not bool, or another tensor is not floating.

        Example:
            >>> x = torch.tensor([[1.0, 7.0], [3.0, 7.0], [9.0, 9.0]])
            >>> Moments.of(x, mask=torch.tensor([True, True, False])).m2
            tensor([2., 0.])
            >>> Moments.of(x, sample_weight=torch.tensor([1.0, 1.0, 2.0])).mean
            tensor([5.5000, 8.0000])
        """
        checks.check_input(x)
        checks.check_mask(x, mask)
        checks.check_sample_weight(x, mask, sample_weight)
        if x.numel() == 0:
            return cls.zeros(shapes.num_channels(x), dtype=statistics_dtype(x), device=x.device)
        weights = of_positions(x, mask, sample_weight, statistics_dtype(x))
        if weights is None:
            return cls.from_var(shapes.count_per_channel(x.shape), *mean_and_var(x))
        if mask is not None:
            x = x.masked_fill(~shapes.as_positions(mask, x.dim()), 0)
        moments = cls.weighted(x, weights)
        return moments if sample_weight is not None else moments._replace(effective=None)

    @classmethod
    def weighted(cls, x: Tensor, weights: Tensor) -> Self:
        """Compute the moments of finite values whose weights are (N, 1, *S)."""
        count, effective, share = weigh(weights)
        mean, var = mean_and_var(x, share)
        return cls(count.expand_as(mean), mean, var * count, effective.expand_as(mean))

    @classmethod
    def zeros(
        cls,
        channels: int,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
    ) -> Self:
        """Make the moments of no values: what a sequence of merges starts from.

        Args:
            channels: Number of channels.
            dtype: float32 or float64.
            device: Where they live; torch's default when None.

        Returns:
            Moments whose count, mean and m2 are all 0.

        Example:
            >>> Moments.zeros(1).merge(Moments.of(torch.ones(2, 1))).mean
            tensor([1.])
        """
        zero = torch.zeros(channels, dtype=dtype, device=device)
        return cls(zero, zero.clone(), zero.clone())

    @classmethod
    def from_var(cls, count: int, mean: Tensor, var: Tensor) -> Self:
        """Make moments of a count shared by all channels, a mean and a variance (correction 0)."""
        return cls(torch.full_like(mean, count), mean, var * count)

    def merge(self, other: "Moments") -> Self:
        """Compute the moments of the values of both; either may be of no values.

        Args:
            other: Moments of other values of the same channels.

        Returns:
            What `of` would give for all the values together, up to rounding.
        """
        count = self.count + other.count
        # 0/0 where neither has values: their means are 0 and so is any share of the difference.
        share = torch.where(count > 0, other.count / count, 0)
        delta = other.mean - self.mean
        effective = None
        if self.effective is not None or other.effective is not None:
            effective = _of_both(count, share, self, other)
        return type(self)(
            count,
            self.mean + delta * share,
            self.m2 + other.m2 + delta * delta * (self.count * share),
            effective,
        )

    def var(self, correction: int = 0) -> Tensor:
        """Compute the variance, m2 / (count − correction).

        With weights, m2/count · effective/(effective − correction): to multiply all weights by a
        number changes nothing.

        Args:
            correction: 0 for the variance of these values (what normalizes them), 1 for the
                unbiased estimate of the population's (what running statistics store).

        Returns:
            Variances (C,); NaN where there are not more (effective) values than the correction.

        Example:
            >>> Moments.of(torch.tensor([[1.0], [3.0]])).var(correction=1)
            tensor([2.])
        """
        if self.effective is None:
            return self.m2 / (self.count - correction).clamp(min=0)
        rest = (self.effective - correction).clamp(min=0)
        return self.m2 / self.count * (self.effective / rest)

    def estimate(self) -> "Estimate":
        """Take these values for a sample: what they say about the population."""
        effective = self.count if self.effective is None else self.effective
        return Estimate(self.mean, self.var(correction=1), self.count, effective)


class Estimate(NamedTuple):
    """What a batch says about the population: what running statistics are moved towards.

    Args:
        mean: Means (C,).
        var: Variances (C,), correction 1; of any value where `effective` is not above 1.
        count: Values per channel, or the sum of their weights; a number, or a tensor (C,).
        effective: As in `Moments`; a number, or a tensor (C,).
        finite: Whether every mean and variance is finite; None where nobody has looked.
    """

    mean: Tensor
    var: Tensor
    count: float | Tensor  # type: ignore[assignment]
    effective: float | Tensor
    finite: bool | None = None

    @property
    def known(self) -> bool | Tensor:
        """Whether there are values enough for a variance; a number, or a tensor (C,)."""
        effective = self.effective
        return effective > 1 if isinstance(effective, Tensor) else bool(effective > 1)

    def only_if(self, condition: Tensor) -> Self:
        """Say the same, or nothing at all; `condition` is a tensor of one bool."""
        return self._replace(
            count=self.count * condition, effective=self.effective * condition, finite=None
        )

    def moments(self) -> Moments:
        """Give the moments of the batch, to be merged with others."""
        count, effective = number(self.count, self.mean), number(self.effective, self.mean)
        biased = self.var * ((effective - 1) / effective)
        m2 = torch.where(effective > 1, biased * count, 0)
        return Moments(count.expand_as(self.mean), self.mean, m2, effective.expand_as(self.mean))


def _of_both(count: Tensor, share: Tensor, one: Moments, other: Moments) -> Tensor:
    """Effective number of the values of both; `share` is that of the other's weights."""
    inverse = torch.zeros_like(count)
    for part, moments in ((1 - share, one), (share, other)):
        effective = moments.count if moments.effective is None else moments.effective
        inverse = inverse + torch.where(effective > 0, part * part / effective, 0)
    return torch.where(count > 0, inverse.reciprocal(), 0)


def number(value: float | Tensor, like: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Put a number beside a tensor, in its dtype where no other is given.

    It is filled in there: copied from the CPU, it would have the device waited for, which a graph
    that is being captured does not allow.
    """
    dtype = like.dtype if dtype is None else dtype
    if isinstance(value, Tensor):
        return value.to(like.device, dtype)
    return torch.full((), value, dtype=dtype, device=like.device)


def statistics_dtype(x: Tensor) -> torch.dtype:
    """Dtype statistics are computed and kept in: float64 for float64, else float32."""
    return torch.float64 if x.dtype is torch.float64 else torch.float32


def mean_and_var(x: Tensor, share: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Compute mean and variance (correction 0) of every channel in two passes; differentiable.

    Args:
        x: Values (N, C, *S) of any floating dtype, not empty.
        share: Weight of each position, (N, 1, *S) or like x, with the sum 1 in every channel, or
            all 0: then so are mean and variance. None: all alike.

    Returns:
        Two (C,) tensors in float32, or float64 for float64 input.

    Source: Ioffe & Szegedy 2015 (arXiv:1502.03167), Algorithm 1, lines 1-2.
    """
    _, mean, var = center(x, share)
    return mean, var


def center(x: Tensor, share: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Subtract the mean of every channel; return the mean and the variance (correction 0) as well.

    Σ(x − mean)² cannot cancel, unlike E[x²] − E[x]². One value of the channel is subtracted
    beforehand: the mean of the rest is small, so a large offset costs no precision, and a constant
    channel has exactly its value for mean and exactly 0 for variance.

    Args:
        x: Values (N, C, *S) of any floating dtype, not empty.
        share: As in `mean_and_var`.

    Returns:
        x − mean, more precise than its parts, and two (C,) tensors; all in float32, or float64 for
        float64 input.

    Source: Chan, Golub & LeVeque 1983, section 3, for the shift.
    """
    centered, mean, var, shift = center_shifted(x, share)
    return centered, mean + shift, var


def center_shifted(x: Tensor, share: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Do as `center`; the mean is in two parts, of which their sum would lose digits.

    Returns:
        x − mean; the mean of x − shift, (C,); the variance; the shift, which is a constant.
    """
    counted = None if share is None else share > 0
    shift = shapes.typical_values(x.detach(), counted).to(statistics_dtype(x))
    shifted = x - shapes.as_channels(shift, x.dim())
    dims = shapes.reduce_dims(x.dim())
    if share is None:
        mean = shifted.mean(dims, keepdim=True)
        centered = shifted - mean
        return centered, mean.view(-1), centered.square().mean(dims), shift
    mean = (shifted * share).sum(dims, keepdim=True)
    centered = shifted - mean
    return centered, mean.view(-1), (centered.square() * share).sum(dims), shift
