"""Normalization by moments that are merged over replicas.

Gradients are those of the sum of the losses of all replicas. That of the input needs sums over all
of them, in one collective; those of weight and bias stay what this replica adds to them:
DistributedDataParallel averages them with all others.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from . import dispatch, given
from .affine import Affine, finish
from .contract import Pair
from .given import By
from .merged import Merged, Replicas, merge, merged_with_graph, own_part, total_with_graph


class Source(NamedTuple):
    """Where the statistics of a batch come from, the values apart.

    Args:
        replicas: The others.
        eps: Added to the variance.
        weights: How much each position counts, (N, 1, *S); None for all alike.
        there: How many are not masked; None for all.
        otherwise: Mean and variance where there is one value in all; None: it becomes bias.
    """

    replicas: Replicas
    eps: float
    weights: Tensor | None = None
    there: Tensor | None = None
    otherwise: Pair | None = None

    def again(self, x: Tensor) -> By:
        """Compute the statistics as functions of x; two collectives, the second in the backward."""
        return statistics(merged_with_graph(_part(x, self), self.replicas), self)

    def total(self, sums: Tensor) -> Tensor:
        """Sum over all replicas; one collective."""
        return self.replicas.total(sums.flatten()).view_as(sums)

    def total_with_graph(self, sums: Tensor) -> Tensor:
        """Do the same so that it can be differentiated."""
        return total_with_graph(sums.flatten(), self.replicas).view_as(sums)


def by_autograd(x: Tensor) -> bool:
    """Say whether derivatives are left to torch: within compilers and function transforms."""
    return torch.compiler.is_compiling() or dispatch.in_transform()


def moments(x: Tensor, source: Source) -> Merged:
    """Compute the moments of the batches of all replicas; one collective."""
    if by_autograd(x):
        return merged_with_graph(_part(x, source), source.replicas)
    with torch.no_grad():
        return merge(source.replicas.gather(_part(x, source).row()))


def normalize(x: Tensor, merged: Merged, after: Affine, source: Source) -> Tensor:
    """Normalize by moments that `moments` has given, and do what follows."""
    by = statistics(merged, source)
    if by_autograd(x):
        return finish(given.standardize(x, by, after), after, x.dtype)
    return given.normalize(x, by, after, source, dispatch.fused(x, after.residual))


def statistics(merged: Merged, source: Source) -> By:
    """Make of moments what normalizes."""
    mean, low, var = merged.mean, merged.low, merged.var
    known = merged.effective > 1
    # The derivative of rsqrt has its cube, which vanishes in float32 from a variance of 1e26 on.
    invstd = (torch.where(known, var, 1) + source.eps).sqrt().reciprocal()
    if source.otherwise is None:
        invstd = torch.where(known, invstd, 0)
    else:
        other_mean, other_var = (t.detach().to(mean.dtype) for t in source.otherwise)
        other_invstd = (other_var + source.eps).rsqrt()
        mean, invstd = (
            torch.where(known, mean, other_mean),
            torch.where(known, invstd, other_invstd),
        )
        low = torch.where(known, low, 0)
    share = merged.count.reciprocal()
    if source.weights is not None:
        share = share * source.weights
    return By(mean, low, invstd, torch.where(known, share, 0))


def _part(x: Tensor, source: Source) -> Any:
    return own_part(x, source.weights, source.there)
