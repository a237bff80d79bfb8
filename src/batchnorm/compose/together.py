"""Normalization by the statistics of the batches of all replicas together.

What a replica may do depends on the merged moments only, so that all act alike: one value per
channel, no weight at all, and what is not finite are found, or refused, by all of them.
"""

from typing import NamedTuple, TypeGuard

import torch
from torch import Tensor

from .. import checks
from ..checks import can_read, shape_text
from ..errors import StatisticsError, SyncError
from ..moments import Estimate
from ..ops import synchronized
from ..ops.affine import Affine
from ..ops.merged import REFUSED, THERE, VALUES, Merged, Replicas
from .batch import Batch, check, zeroed
from .options import Options, Pair, corrected
from .train import is_finite, mended, train


def train_together(
    x: Tensor,
    after: Affine,
    options: Options,
    replicas: Replicas,
    running: Pair | None = None,
    mask: Tensor | None = None,
    sample_weight: Tensor | None = None,
) -> tuple[Tensor, Estimate | None]:
    """Normalize by the statistics of what all replicas have; see `train` for the rest.

    Virtual batches lie within a replica: then only the estimate is that of all.

    Raises:
        SyncError: Another replica has refused its batch.
    """
    check(x, running, after, options.eps, mask)
    checks.check_sample_weight(x, mask, sample_weight, alone=False)
    checks.check_virtual_batch_size(options.virtual_batch_size)
    batch = Batch.of(x, after, mask, sample_weight)
    here = _Here(replicas, options, sample_weight is not None)
    if options.virtual_batch_size is not None:
        y, _ = train(x, after, options, running, mask, sample_weight)
        batch = batch._replace(x=batch.x.detach())
        estimate = _estimate(*here.moments(batch)[1:])
        if _is_lost(estimate, x):
            wide = _estimate(*here.moments(batch.double())[1:])
            _, estimate = mended((y, estimate), (y, wide or estimate))
        return y, estimate
    y, estimate = here.normalized(batch)
    if _is_lost(estimate, x):
        wide_y, wide = here.normalized(batch.double())
        y, estimate = mended((y, estimate), (wide_y, wide or estimate))
    return zeroed(y, batch.drop), estimate


def _is_lost(estimate: Estimate | None, x: Tensor) -> TypeGuard[Estimate]:
    finite = estimate is None or estimate.finite is not False
    return not finite and x.dtype is not torch.float64


class _Here(NamedTuple):
    """What stays the same if a batch is taken for a second time, in float64."""

    replicas: Replicas
    options: Options
    weighted: bool

    def moments(self, batch: Batch) -> tuple[synchronized.Source, Merged, bool]:
        """Merge moments; say also whether their values could be looked at."""
        weights, there = batch.weights, None
        if weights is not None and batch.drop is not None:
            there = (~batch.drop.expand_as(weights)).sum()
        elif weights is not None:
            there = torch.full((), weights.numel(), device=weights.device)
        eps, otherwise = self.options.eps, self.options.otherwise
        source = synchronized.Source(self.replicas, eps, weights, there, otherwise)
        merged = synchronized.moments(batch.x, source)
        readable = can_read(batch.x)
        if readable:
            _agree(merged, self.options, self.weighted, batch.x)
        return source, merged, readable

    def normalized(self, batch: Batch) -> tuple[Tensor, Estimate | None]:
        """Normalize, and estimate."""
        source, merged, readable = self.moments(batch)
        after = batch.after
        if self.options.correct is not None:
            r, d = self.options.correct(merged.mean.detach(), merged.var.detach())
            known = merged.effective > 1
            after = corrected(after, (torch.where(known, r, 1), torch.where(known, d, 0)))
        y = synchronized.normalize(batch.x, merged, after, source)
        return y, _estimate(merged, readable)


def _agree(merged: Merged, options: Options, weighted: bool, x: Tensor) -> None:
    """Refuse what cannot be normalized; all replicas come to the same end."""
    heads = merged.heads.tolist()
    others = [str(rank) for rank, head in enumerate(heads) if head[REFUSED]]
    if others:
        raise SyncError(
            f"expected a batch of every replica, but it was refused by replica "
            f"{', '.join(others)}, whose own error says why; no statistics have changed here"
        )
    there, values = (sum(head[column] for head in heads) for column in (THERE, VALUES))
    if there and not values and weighted:
        raise checks.no_weight()
    if there and values <= 1 and options.otherwise is None:
        raise StatisticsError(
            f"expected more than 1 value per channel in training, found {values:.0f} on all "
            f"{len(heads)} replicas together (input {shape_text(x.shape)} on this one); use larger "
            f'batches, choose degenerate="running", or call .eval() to use the running statistics'
        )


def _estimate(merged: Merged, readable: bool) -> Estimate | None:
    """What the merged batch says; None where it is known to be empty."""
    mean, var = merged.mean.detach(), merged.var.detach()
    if not readable:
        count, effective = (t.expand_as(mean) for t in (merged.count, merged.effective))
        return Estimate(mean, var * (effective / (effective - 1)), count, effective)
    total, n = float(merged.count), float(merged.effective)
    if n <= 1:
        return Estimate(mean, torch.full_like(mean, torch.nan), total, n) if total else None
    var = var * (n / (n - 1))
    return Estimate(mean, var, total, n, is_finite(mean, var))
