"""Which channel becomes which on the way from one call to another, past views and copies.

The operators on the way are run again on the numbers of the channels, so nothing is assumed about
them but that they move values.
"""

import dataclasses

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from .graph import Step, Value

MOVES = frozenset(
    (
        "_reshape_alias",
        "_unsafe_view",
        "alias",
        "channel_shuffle",
        "clone",
        "detach",
        "expand",
        "flip",
        "permute",
        "pixel_shuffle",
        "pixel_unshuffle",
        "repeat",
        "roll",
        "select",
        "slice",
        "squeeze",
        "t",
        "transpose",
        "unsqueeze",
        "view",
    )
)
"""Operators that only move, copy, or leave out values of their one tensor."""


@dataclasses.dataclass(frozen=True)
class Trail:
    """The way of a value through operators that only move it."""

    start: Value
    steps: tuple[Step, ...]
    end: Value

    @property
    def values(self) -> list[Value]:
        """The values on the way, first and last included."""
        return [self.start, *(step.outputs[0] for step in self.steps)]

    def channels_of_start(self, axis: int, end_axis: int) -> Tensor | None:
        """For each channel at the end, its number at the start; None if it is not one."""
        pairs, _, num_end = self._pairs(axis, end_axis)
        return _as_map(pairs[1], pairs[0], num_end, is_complete=True)

    def channels_of_end(self, axis: int, end_axis: int) -> Tensor | None:
        """For each channel at the start, its number at the end; -1 where it is left out.

        None if values of one channel end up in several.
        """
        pairs, num_start, _ = self._pairs(axis, end_axis)
        return _as_map(pairs[0], pairs[1], num_start, is_complete=False)

    def _pairs(self, axis: int, end_axis: int) -> tuple[Tensor, int, int]:
        labels = _numbers(self.start.shape, axis)
        for step in self.steps:
            labels = _moved(step, labels.contiguous())
        there = _numbers(labels.shape, end_axis)
        num_start, num_end = self.start.shape[axis], labels.shape[end_axis]
        pairs = torch.unique(labels * num_end + there)
        return torch.stack((pairs // num_end, pairs % num_end)), num_start, num_end


def is_move(step: Step) -> bool:
    """Whether a step only moves values of one tensor to one other."""
    return (
        step.op is not None
        and step.op.overloadpacket.__name__ in MOVES
        and len(step.reads) == len(step.outputs) == 1
    )


def _numbers(shape: tuple[int, ...] | torch.Size, axis: int) -> Tensor:
    along = [1] * len(shape)
    along[axis] = shape[axis]
    return torch.arange(shape[axis]).view(along).expand(shape)


def _moved(step: Step, labels: Tensor) -> Tensor:
    args, kwargs = pytree.tree_map(
        lambda leaf: labels if isinstance(leaf, Value) else leaf, (step.args, step.kwargs)
    )
    moved: Tensor = step.op(*args, **kwargs)
    return moved


def _as_map(keys: Tensor, values: Tensor, num_keys: int, is_complete: bool) -> Tensor | None:
    counts = torch.bincount(keys, minlength=num_keys)
    if bool((counts > 1).any()) or (is_complete and bool((counts == 0).any())):
        return None
    found = torch.full((num_keys,), -1)
    found[keys] = values
    return found
