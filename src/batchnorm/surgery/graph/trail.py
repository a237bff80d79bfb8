"""Which channel becomes which on the way from one call to another, past views, copies, averages.

The operators on the way are run again on the numbers of the channels, so nothing is assumed about
them but that they move values, or average some with weights that are not negative.
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

AVERAGES = frozenset(
    (
        "_adaptive_avg_pool2d",
        "_adaptive_avg_pool3d",
        "adaptive_avg_pool1d",
        "avg_pool1d",
        "avg_pool2d",
        "avg_pool3d",
        "mean",
        "upsample_bilinear2d",
        "upsample_linear1d",
        "upsample_nearest1d",
        "upsample_nearest2d",
        "upsample_nearest3d",
        "upsample_trilinear3d",
    )
)
"""Operators whose every value is a sum of values, with weights that are not negative.

Where the weights sum to 1 and all lie on one channel, what scales and shifts that channel may as
well be done behind. Bicubic interpolation is none of these: it has negative weights.
"""


@dataclasses.dataclass(frozen=True)
class Trail:
    """The way of a value through operators that only move it, or average it."""

    start: Value
    steps: tuple[Step, ...]
    end: Value

    @property
    def values(self) -> list[Value]:
        """The values on the way, first and last included."""
        return [self.start, *(step.outputs[0] for step in self.steps)]

    def channels_of_start(self, axis: int, end_axis: int) -> Tensor | None:
        """For each channel at the end, its number at the start; None if it is not one."""
        found = self._pairs(axis, end_axis)
        if found is None:
            return None
        pairs, _, num_end = found
        return _as_map(pairs[1], pairs[0], num_end, is_complete=True)

    def channels_of_end(self, axis: int, end_axis: int) -> Tensor | None:
        """For each channel at the start, its number at the end; -1 where it is left out.

        None if values of one channel end up in several.
        """
        found = self._pairs(axis, end_axis)
        if found is None:
            return None
        pairs, num_start, _ = found
        return _as_map(pairs[0], pairs[1], num_start, is_complete=False)

    def _pairs(self, axis: int, end_axis: int) -> tuple[Tensor, int, int] | None:
        labels = _numbers(self.start.shape, axis)
        for step in self.steps:
            moved = _moved if _is_of(step, MOVES) else _averaged
            after = moved(step, labels.contiguous())
            if after is None:
                return None
            labels = after
        there = _numbers(labels.shape, end_axis)
        num_start, num_end = self.start.shape[axis], labels.shape[end_axis]
        pairs = torch.unique(labels * num_end + there)
        return torch.stack((pairs // num_end, pairs % num_end)), num_start, num_end


def is_move(step: Step) -> bool:
    """Whether a step only moves, or averages, values of one tensor to one other."""
    return _is_of(step, MOVES | AVERAGES) and len(step.reads) == len(step.outputs) == 1


def _is_of(step: Step, names: frozenset[str]) -> bool:
    return step.op is not None and step.op.overloadpacket.__name__ in names


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


def _averaged(step: Step, labels: Tensor) -> Tensor | None:
    """The label that all averaged values have; None if they have several, or weights sum to less.

    With weights w ≥ 0 that sum to 1, Σwk² − (Σwk)² is the variance of the labels k: 0 only where
    they are one.
    """
    x = labels.double()
    ones, mean, square = (_moved(step, t) for t in (torch.ones_like(x), x, x.square()))
    size = max(float(x.max()), 1.0)
    is_whole = _near(ones, 1.0, 1e-9) and _near(square, mean.square(), 1e-9 * size**2)
    return mean.round().long() if is_whole else None


def _near(a: Tensor, b: Tensor | float, tolerance: float) -> bool:
    return bool(((a - b).abs() <= tolerance).all())


def _as_map(keys: Tensor, values: Tensor, num_keys: int, is_complete: bool) -> Tensor | None:
    counts = torch.bincount(keys, minlength=num_keys)
    if bool((counts > 1).any()) or (is_complete and bool((counts == 0).any())):
        return None
    found = torch.full((num_keys,), -1)
    found[keys] = values
    return found
