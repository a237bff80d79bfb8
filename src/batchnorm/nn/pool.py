"""What several forwards have seen of a layer, merged."""

from typing import NamedTuple, Self

import torch
from torch import Tensor

from ..moments import Estimate, Moments, number


class Pool(NamedTuple):
    """Moments of several batches; changed in place, so that compiled code can do it."""

    moments: Moments
    batches: Tensor
    """Batches that knew a variance, int64."""

    @classmethod
    def empty(cls, like: Tensor) -> Self:
        """Make a pool of no batch, for statistics like `like`, (C,)."""
        moments = Moments.zeros(like.shape[0], dtype=like.dtype, device=like.device)
        moments = moments._replace(effective=torch.zeros_like(moments.count))
        return cls(moments, torch.zeros((), dtype=torch.int64, device=like.device))

    def add_(self, batch: Estimate, skip: Tensor | None) -> None:
        """Merge a batch, without the channels to skip, bool (C,)."""
        moments = batch.moments()
        if skip is not None:
            count, mean, m2, effective = moments
            assert effective is not None
            moments = Moments(*(torch.where(skip, 0, t) for t in (count, mean, m2, effective)))
        known = number(batch.known, self.batches, torch.bool).any()
        self.join_(Pool(moments, known.to(torch.int64)))

    def join_(self, other: "Pool") -> None:
        """Merge another pool."""
        merged = self.moments.merge(other.moments)
        for mine, new in zip(self.moments, merged, strict=True):
            if mine is not None and new is not None:
                mine.copy_(new)
        self.batches.add_(other.batches)
