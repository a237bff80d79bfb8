"""Outputs of a model in several runs, compared sample by sample."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import Tensor
from torch.utils import _pytree as pytree

from ..moments import Moments
from .evidence import Gap

KEPT = 1 << 16
"""Values of the output of a batch that are kept, at evenly spaced positions."""


def main_output(output: Any) -> Tensor | None:
    """Find what is compared: the first floating tensor in whatever the model returns."""
    leaves = [output] if isinstance(output, Tensor) else pytree.tree_leaves(_plain(output))
    found = (leaf for leaf in leaves if isinstance(leaf, Tensor) and leaf.is_floating_point())
    return next((tensor for tensor in found if tensor.dim() >= 1 and tensor.numel()), None)


def kept(output: Any) -> Tensor | None:
    """Keep the main output, (N, C, P) in float64; P of its positions, where there are many."""
    y = main_output(output)
    if y is None:
        return None
    y = y.detach()
    wide = (y if y.dim() > 1 else y[:, None]).flatten(2) if y.dim() > 2 else y.reshape(len(y), -1)
    wide = wide if wide.dim() == 3 else wide[:, :, None]
    room = max(1, KEPT // max(1, wide.shape[0] * wide.shape[1]))
    thin = wide[:, :, :: max(1, -(-wide.shape[2] // room))]
    return thin.cpu().double()


class Difference(NamedTuple):
    """Outputs of two runs beside each other, in sums that add up over batches and replicas."""

    squares: float
    """Of the differences."""
    spread: Moments | None
    """Of the outputs of the first run, by channel."""
    other_spread: float
    """Squared deviations in batches with another number of channels than the first."""
    flips: int
    """Decisions (the largest channel) that differ."""
    decisions: int
    has_channels: bool
    """Whether every output had two or more."""

    def merge(self, other: "Difference") -> "Difference":
        """Add another one."""
        spread, apart = _spread([self.spread, other.spread])
        return Difference(
            self.squares + other.squares,
            spread,
            self.other_spread + other.other_spread + apart,
            self.flips + other.flips,
            self.decisions + other.decisions,
            self.has_channels and other.has_channels,
        )

    def gap(self) -> Gap:
        """Relate the differences to the spread of the outputs, and flips to decisions."""
        flips = self.flips / self.decisions if self.has_channels else None
        if self.squares == 0:
            return Gap(0.0, flips)
        spread = self.other_spread
        spread += 0.0 if self.spread is None else float(self.spread.m2.sum())
        return Gap(math.sqrt(self.squares / spread) if spread else math.inf, flips)


def difference(
    first: Sequence[Tensor | None], second: Sequence[Tensor | None]
) -> Difference | None:
    """Compare the outputs of two runs, batch by batch.

    Args:
        first: What `kept` gave for each batch, in one run.
        second: The same samples in another run.

    Returns:
        None where there is nothing that has the same shape in both.
    """
    pairs = [
        (a, b)
        for a, b in zip(first, second, strict=True)
        if a is not None and b is not None and a.shape == b.shape
    ]
    if not pairs:
        return None
    squares = sum(float((b - a).square().sum()) for a, b in pairs)
    has_channels = all(a.shape[1] >= 2 for a, _ in pairs)
    changed = [a.argmax(1) != b.argmax(1) for a, b in pairs] if has_channels else []
    flips, decisions = sum(int(c.sum()) for c in changed), sum(c.numel() for c in changed)
    return Difference(
        squares, *_spread([Moments.of(a) for a, _ in pairs]), flips, decisions, has_channels
    )


def gap(first: Sequence[Tensor | None], second: Sequence[Tensor | None]) -> Gap | None:
    """Give the gap of two runs; see `difference`."""
    found = difference(first, second)
    return None if found is None else found.gap()


def _spread(parts: Sequence[Moments | None]) -> tuple[Moments | None, float]:
    """Pool moments; those with other numbers of channels than the first stay for themselves."""
    merged: Moments | None = None
    apart = 0.0
    for moments in parts:
        if moments is None:
            continue
        if merged is None or merged.mean.shape == moments.mean.shape:
            merged = moments if merged is None else merged.merge(moments)
        else:
            apart += float(moments.m2.sum())
    return merged, apart


def _plain(output: Any) -> Any:
    """Look into objects with fields, which are no nest for PyTorch."""
    is_nest = isinstance(output, dict | list | tuple)
    return output if is_nest or not hasattr(output, "__dict__") else vars(output)
