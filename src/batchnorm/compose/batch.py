"""A batch on its way to be normalized: all that has its positions, cut and folded as one."""

from typing import NamedTuple, Self

import torch
from torch import Tensor

from .. import checks, shapes
from ..errors import OptionError
from ..moments import statistics_dtype
from ..ops.affine import Affine
from ..ops.layout import keep_format
from ..weights import of_positions
from .options import Pair


class Batch(NamedTuple):
    """Values, how much they count, and what follows the normalization.

    Args:
        x: Values (N, C, *S), 0 where they are masked.
        after: What follows; its residual has the shape of x.
        drop: What is masked, bool (N, 1, 1, ...) or (N, 1, *S); None for nothing.
        weights: How much each position counts, (N, 1, *S); None for all alike. After `fold`, one
            channel for all of a chunk.
    """

    x: Tensor
    after: Affine
    drop: Tensor | None = None
    weights: Tensor | None = None

    @classmethod
    def of(
        cls,
        x: Tensor,
        after: Affine,
        mask: Tensor | None = None,
        sample_weight: Tensor | None = None,
    ) -> Self:
        """Cover what is masked with zeros: it could be NaN, and 0·NaN is that too."""
        if mask is None and sample_weight is None:
            return cls(x, after)
        weights = of_positions(x, mask, sample_weight, statistics_dtype(x))
        if mask is None:
            return cls(x, after, None, weights)
        drop = ~shapes.as_positions(mask, x.dim())
        if after.residual is not None:
            after = after._replace(residual=zeroed(after.residual, drop))
        return cls(zeroed(x, drop), after, drop, weights)

    def split(self, sizes: list[int]) -> list["Batch"]:
        """Cut into runs of consecutive samples."""
        if len(sizes) == 1:
            return [self]
        residuals, drops, weights = (
            [None] * len(sizes) if t is None else torch.split(t, sizes)
            for t in (self.after.residual, self.drop, self.weights)
        )
        pieces = zip(torch.split(self.x, sizes), residuals, drops, weights, strict=True)
        return [
            Batch(x, self.after._replace(residual=residual), drop, weight)
            for x, residual, drop, weight in pieces
        ]

    def fold(self, chunks: int) -> "Batch":
        """Turn equal chunks of consecutive samples into channels."""
        if chunks == 1:
            return self
        residual, drop, weights = self.after.residual, self.drop, self.weights
        if residual is not None:
            residual = shapes.fold_chunks(keep_format(residual), chunks)
        if drop is not None and weights is not None:
            drop = shapes.fold_chunks(drop.expand_as(weights), chunks)
        if weights is not None:
            weights = shapes.fold_chunks(weights, chunks)
        after = self.after._replace(
            weight=shapes.fold_vector(self.after.weight, chunks),
            bias=shapes.fold_vector(self.after.bias, chunks),
            residual=residual,
        )
        return Batch(shapes.fold_chunks(keep_format(self.x), chunks), after, drop, weights)

    def double(self) -> "Batch":
        """Convert values and weights to float64."""
        weights = None if self.weights is None else self.weights.double()
        return self._replace(x=self.x.double(), weights=weights)


def zeroed(y: Tensor, drop: Tensor | None) -> Tensor:
    """Put 0 where `drop` is True, in the same memory format."""
    return y if drop is None else torch.where(drop, 0, y)


def check(x: Tensor, running: Pair | None, after: Affine, eps: float, mask: Tensor | None) -> None:
    """Refuse tensors that do not belong together, and an eps that is not positive."""
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
