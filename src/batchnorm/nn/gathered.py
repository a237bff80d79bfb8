"""What replicas have sent, so that a recomputation needs no second collective."""

from typing import Any, Protocol

import torch
from torch import Tensor

from .. import distributed
from ..errors import SyncError
from .latest import REMEMBERED, Latest
from .recomputation import is_recomputation


class Replicas(Protocol):
    """As `ops.merged.Replicas`, and able to tell the others that there is nothing to come."""

    size: int
    rank: int

    def gather(self, row: Tensor) -> Tensor:
        """Give the rows of all replicas."""

    def total(self, sums: Tensor) -> Tensor:
        """Give the sum over all replicas."""

    def refuse(self, channels: int, like: Tensor) -> None:
        """Let the others know."""


class Gathered(Latest[Tensor, Tensor]):
    """The latest rows of a layer, kept only where activation checkpointing may ask again.

    A forward is known by the row that this replica has sent.
    """

    def __reduce__(self) -> tuple[type, tuple[()]]:
        """A copy remembers nothing."""
        return Gathered, ()

    def keeping(self, call: distributed.Call) -> Replicas:
        """Give replicas that are asked once."""
        if torch.compiler.is_compiling():
            return call
        if is_recomputation():
            return _Again(call, self)
        return _Kept(call, self) if _may_be_recomputed() else call

    def recall(self, row: Tensor) -> Tensor | None:
        """Find what the forward that has sent this row has got; None where there was none.

        Raises:
            SyncError: It has been forgotten.
        """
        rows = self.find(lambda known: _equal(known, row))
        if rows is None and self.forgotten:
            raise SyncError(
                f"expected to recompute one of the latest {REMEMBERED} forward passes of this "
                f"synchronized layer, found an older one; call backward more often, or leave "
                f"the layer out of the checkpoint"
            )
        return rows


class _Kept:
    """Replicas whose answers are kept."""

    def __init__(self, call: distributed.Call, memory: Gathered) -> None:
        self.call, self.memory = call, memory
        self.size, self.rank = call.size, call.rank

    def gather(self, row: Tensor) -> Tensor:
        rows = self.call.gather(row)
        self.memory.record(row, rows)
        return rows

    def total(self, sums: Tensor) -> Tensor:
        return self.call.total(sums)

    def refuse(self, channels: int, like: Tensor) -> None:
        self.call.refuse(channels, like)


class _Again(_Kept):
    """Replicas that are not asked again."""

    def gather(self, row: Tensor) -> Tensor:
        rows = self.memory.recall(row)
        if rows is None:  # a forward pass that is new, inside a backward pass
            return self.call.gather(row)
        self.call.joined = True
        return rows


def _equal(known: Tensor, new: Tensor) -> bool:
    if known.shape != new.shape or known.dtype is not new.dtype:
        return False
    return bool(((known == new) | (known.isnan() & new.isnan())).all())


def _may_be_recomputed() -> bool:
    """Say whether a checkpoint may be around: it runs without gradients, or sets hooks."""
    autograd: Any = torch._C._autograd
    hooks = autograd._top_saved_tensors_default_hooks(True)
    return hooks is not None or not torch.is_grad_enabled()
