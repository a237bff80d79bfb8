"""Normalization by moments to which the positions of a batch contribute by their shares.

This is what masks and weights of samples become. By fused kernels, where those take shares.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from .. import shapes
from . import composite, given
from .affine import Affine
from .contract import LOW, MEAN, VAR, Kernels, Pair, readable
from .given import By


class Shares(NamedTuple):
    """How much each position counts, and what is done where nothing is known.

    Args:
        share: (N, G, *S) for G groups of neighboring channels; in each the sum is 1, or 0.
        known: Which channels have statistics, bool (C,).
        otherwise: Mean and variance (C,) for those that have none; None: they become bias.
        eps: Added to the variance.
    """

    share: Tensor
    known: Tensor
    otherwise: Pair | None
    eps: float

    def again(self, x: Tensor) -> By:
        """Compute the statistics as functions of x."""
        share = shapes.of_groups(self.share, x)
        given = x, share, self.known, None, None, self.eps, self.otherwise
        *_, mean, invstd = composite.standardize_shared(*given)
        return By(mean, torch.zeros_like(mean), invstd, self.share)

    def total(self, sums: Tensor) -> Tensor:
        """Give the sums where x has a part in the statistics, and 0 elsewhere."""
        return torch.where(self.known, sums, 0)

    def total_with_graph(self, sums: Tensor) -> Tensor:
        """Do the same."""
        return self.total(sums)

    def by(self, vectors: Tensor) -> By:
        """Make of the statistics of x what normalizes."""
        mean, low, var = vectors[MEAN], vectors[LOW], vectors[VAR]
        invstd = (var + self.eps).sqrt().reciprocal()
        if self.otherwise is None:
            return By(mean, low, torch.where(self.known, invstd, 0), self.share)
        other_mean, other_var = self.otherwise
        return By(
            torch.where(self.known, mean, other_mean),
            torch.where(self.known, low, 0),
            torch.where(self.known, invstd, (other_var + self.eps).rsqrt()),
            self.share,
        )


def normalize(
    x: Tensor, shares: Shares, after: Affine, kernels: Kernels
) -> tuple[Tensor, Tensor, Tensor]:
    """Normalize by the statistics of x; return its mean and variance (correction 0) as well."""
    x = readable(x)
    vectors = kernels.stats(x.detach(), shares.share)
    y = given.normalize(x, shares.by(vectors), after, shares, kernels)
    return y, vectors[MEAN], vectors[VAR]
