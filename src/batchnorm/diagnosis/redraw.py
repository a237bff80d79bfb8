"""The same samples in other batches: what a batch says about its samples beside what they are."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree


class Redrawn:
    """Batches of the same sizes, whose samples are drawn at random from all batches.

    Args:
        batches: As loaded.

    Raises:
        ValueError: They are not made of tensors alone that all have one entry a sample.
    """

    def __init__(self, batches: Sequence[Any]) -> None:
        flat = [pytree.tree_flatten(batch) for batch in batches]
        leaves, self.specs = [leaf for leaf, _ in flat], [spec for _, spec in flat]
        self.sizes = [samples_of(batch) for batch in leaves]
        if any(spec != self.specs[0] for spec in self.specs):
            raise ValueError("batches are not structured alike")
        for of_batch, size in zip(leaves, self.sizes, strict=True):
            _check(of_batch, leaves[0], size)
        self.columns = list(zip(*leaves, strict=True))
        total = sum(size for size in self.sizes if size)
        generator = torch.Generator().manual_seed(0)
        self.order = torch.randperm(total, generator=generator)

    def batch(self, number: int) -> Any:
        """Make a batch."""
        wanted = self._samples(number)
        columns = [_rows(column, self.sizes, wanted) for column in self.columns]
        return pytree.tree_unflatten(columns, self.specs[number])

    def put_back(self, outputs: Sequence[Tensor | None]) -> list[Tensor | None]:
        """Sort outputs (N, ...) of these batches as their samples were in the batches as loaded."""
        whole = [y for y in outputs if y is not None]
        fits = len(whole) == len(outputs) and all(
            len(y) == n and y.shape[1:] == whole[0].shape[1:]
            for y, n in zip(whole, self.sizes, strict=True)
        )
        if not fits:
            return [None] * len(outputs)
        every = torch.cat(whole)
        sorted_ = torch.empty_like(every)
        sorted_[self.order] = every
        return list(torch.split(sorted_, [n or 0 for n in self.sizes]))

    def _samples(self, number: int) -> Tensor:
        start = sum(n or 0 for n in self.sizes[:number])
        return self.order[start : start + (self.sizes[number] or 0)]


def samples_of(batch: Any) -> int | None:
    """Tell the number of samples of a batch: the first size of its first tensor."""
    leaves = [x for x in pytree.tree_leaves(batch) if isinstance(x, Tensor) and x.dim()]
    return len(leaves[0]) if leaves else None


def _check(leaves: Sequence[Any], first: Sequence[Any], size: int | None) -> None:
    if size is None:
        raise ValueError("a batch has no tensors")
    for leaf, other in zip(leaves, first, strict=True):
        if not isinstance(leaf, Tensor) or not leaf.dim() or len(leaf) != size:
            raise ValueError("a batch holds something that has not one entry a sample")
        if leaf.shape[1:] != other.shape[1:] or leaf.dtype != other.dtype:
            raise ValueError("samples of different batches have different shapes")


def _rows(column: Sequence[Tensor], sizes: Sequence[int | None], wanted: Tensor) -> Tensor:
    """Gather samples from the batches they are in."""
    ends = torch.tensor([n or 0 for n in sizes]).cumsum(0)
    owner = torch.searchsorted(ends, wanted, right=True)
    starts = ends - torch.tensor([n or 0 for n in sizes])
    place = wanted - starts[owner]
    pairs = zip(owner.tolist(), place.tolist(), strict=True)
    return torch.stack([column[k][i] for k, i in pairs])
