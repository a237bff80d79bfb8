"""Count, mean and sum of squared deviations per channel: the mathematical core.

Every variant of batch normalization is a choice of where these come from. Nothing else in the
library computes a variance, except a kernel that fulfils the contract of `ops`.
"""

from typing import NamedTuple, Self

import torch
from torch import Tensor

from . import shapes


class Moments(NamedTuple):
    """Count, mean and Σ(x − mean)² of every channel; merges exactly.

    Where the count is 0, mean and m2 are 0. The count has the dtype of the mean, so in float32
    it is exact up to 2^24; take `Moments.of(x.double())` where more is needed.

    Args:
        count: Values per channel, (C,).
        mean: Their mean, (C,).
        m2: Their sum of squared deviations from it, (C,).

    Example:
        >>> Moments.of(torch.tensor([[1.0], [3.0]])).merge(Moments.of(torch.tensor([[5.0]])))
        Moments(count=tensor([3.]), mean=tensor([3.]), m2=tensor([8.]))

    Source: Chan, Golub & LeVeque 1983, The American Statistician 37(3), equation 1.5.
    """

    # tuple.count is a method; here the field of the same name, by intent.
    count: Tensor  # type: ignore[assignment]
    mean: Tensor
    m2: Tensor

    @classmethod
    def of(cls, x: Tensor) -> Self:
        """Compute the moments of every channel of a tensor.

        Args:
            x: Values (N, C, *S) of any floating dtype; may be empty.

        Returns:
            Moments of shape (C,) in float32, or in float64 for float64 input.

        Raises:
            ShapeError: `x` has fewer than two axes.

        Example:
            >>> Moments.of(torch.tensor([[1.0, 7.0], [3.0, 7.0]])).m2
            tensor([2., 0.])
        """
        shapes.check_input(x)
        count = shapes.count_per_channel(x.shape)
        if count == 0:
            return cls.zeros(shapes.num_channels(x), dtype=statistics_dtype(x), device=x.device)
        return cls.from_var(count, *mean_and_var(x))

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
        return type(self)(
            count,
            self.mean + delta * share,
            self.m2 + other.m2 + delta * delta * (self.count * share),
        )

    def var(self, correction: int = 0) -> Tensor:
        """Compute the variance, m2 / (count − correction).

        Args:
            correction: 0 for the variance of these values (what normalizes them), 1 for the
                unbiased estimate of the population's (what running statistics store).

        Returns:
            Variances (C,); NaN where the count is not above the correction.

        Example:
            >>> Moments.of(torch.tensor([[1.0], [3.0]])).var(correction=1)
            tensor([2.])
        """
        return self.m2 / (self.count - correction).clamp(min=0)


def statistics_dtype(x: Tensor) -> torch.dtype:
    """Dtype statistics are computed and kept in: float64 for float64, else float32."""
    return torch.float64 if x.dtype is torch.float64 else torch.float32


def mean_and_var(x: Tensor) -> tuple[Tensor, Tensor]:
    """Compute mean and variance (correction 0) of every channel in two passes; differentiable.

    Args:
        x: Values (N, C, *S) of any floating dtype, not empty.

    Returns:
        Two (C,) tensors in float32, or float64 for float64 input.

    Source: Ioffe & Szegedy 2015 (arXiv:1502.03167), Algorithm 1, lines 1-2.
    """
    _, mean, var = center(x)
    return mean, var


def center(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Subtract the mean of every channel; return the mean and the variance (correction 0) as well.

    Σ(x − mean)² cannot cancel, unlike E[x²] − E[x]². One value of the channel is subtracted
    beforehand: the mean of the rest is small, so a large offset costs no precision, and a constant
    channel has exactly its value for mean and exactly 0 for variance.

    Args:
        x: Values (N, C, *S) of any floating dtype, not empty.

    Returns:
        x − mean, more precise than its parts, and two (C,) tensors; all in float32, or float64 for
        float64 input.

    Source: Chan, Golub & LeVeque 1983, section 3, for the shift.
    """
    shift = shapes.typical_values(x.detach()).to(statistics_dtype(x))
    shifted = x - shapes.as_channels(shift, x.dim())
    dims = shapes.reduce_dims(x.dim())
    mean = shifted.mean(dims, keepdim=True)
    centered = shifted - mean
    return centered, mean.view(-1) + shift, centered.square().mean(dims)
