"""What several forwards have seen of a layer, merged."""

from typing import NamedTuple, Self

import torch
from torch import Tensor

from ..moments import Estimate, Moments


class Pool(NamedTuple):
    """Moments of several batches; changed in place, so that compiled code can do it."""

    moments: Moments
    nonfinite: Tensor
    """How often a channel was left out, int64 (C,)."""
    batches: Tensor
    """Batches that knew a variance, int64."""

    @classmethod
    def empty(cls, like: Tensor) -> Self:
        """Make a pool of no batch, for statistics like `like`, (C,)."""
        moments = Moments.zeros(like.shape[0], dtype=like.dtype, device=like.device)
        moments = moments._replace(effective=torch.zeros_like(moments.count))
        nonfinite = torch.zeros_like(like, dtype=torch.int64)
        return cls(moments, nonfinite, nonfinite.new_zeros(()))

    def add_(self, batch: Estimate, skip: Tensor | None) -> None:
        """Merge a batch, without the channels to skip, bool (C,)."""
        known = torch.as_tensor(batch.known, device=batch.mean.device).any()
        if skip is None:
            self._merge_(batch.moments(), 0, known)
        else:
            count, mean, m2, effective = batch.moments()
            assert effective is not None
            kept = Moments(*(torch.where(skip, 0, t) for t in (count, mean, m2, effective)))
            self._merge_(kept, skip, known)

    def join_(self, other: "Pool") -> None:
        """Merge another pool."""
        self._merge_(other.moments, other.nonfinite, other.batches)

    def _merge_(self, moments: Moments, nonfinite: Tensor | int, batches: Tensor) -> None:
        merged = self.moments.merge(moments)
        for mine, new in zip(self.moments, merged, strict=True):
            if mine is not None and new is not None:
                mine.copy_(new)
        self.nonfinite.add_(nonfinite)
        self.batches.add_(batches)
