"""How far the output for a sample depends on the other samples of its batch."""

from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from .outputs import gap, kept
from .passes import Way
from .redraw import samples_of


def with_other_companions(batch: Any) -> tuple[Any, int] | None:
    """Replace the second half of a batch by copies of the last sample of the first half.

    Returns:
        The batch, and how many samples stay; None where no tensor has two samples.
    """
    size = samples_of(batch)
    if size is None or size < 2:
        return None
    stay = size // 2

    def replaced(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor) or not leaf.dim() or len(leaf) != size:
            return leaf
        return torch.cat([leaf[:stay], leaf[stay - 1 : stay].expand(size - stay, *leaf.shape[1:])])

    return pytree.tree_map(replaced, batch), stay


def leakage(way: Way, batch: Any) -> float | None:
    """Measure how far outputs move, in their standard deviations, with other companions.

    Returns:
        None where the output has not one entry for each sample.
    """
    other = with_other_companions(batch)
    size = samples_of(batch)
    if other is None or size is None:
        return None
    with torch.no_grad():
        first, second = (kept(way.output(each)) for each in (batch, other[0]))
    if first is None or second is None or len(first) != size or len(second) != size:
        return None
    found = gap([first[: other[1]]], [second[: other[1]]])
    return None if found is None else found.rms
