"""Outputs of a model in several runs, compared sample by sample."""

import math
from collections.abc import Sequence
from typing import Any

import torch
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


def gap(first: Sequence[Tensor | None], second: Sequence[Tensor | None]) -> Gap | None:
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
    difference = sum(float((b - a).square().sum()) for a, b in pairs)
    spread = spread_of([a for a, _ in pairs])
    if difference == 0:
        return Gap(0.0, flips(pairs))
    return Gap(math.sqrt(difference / spread) if spread else math.inf, flips(pairs))


def spread_of(outputs: Sequence[Tensor]) -> float:
    """Sum the squared deviations of all outputs from the mean of their channel.

    Where batches have other numbers of channels than the first, from the mean in the batch.
    """
    merged: Moments | None = None
    total = 0.0
    for y in outputs:
        moments = Moments.of(y)
        if merged is None or merged.mean.shape == moments.mean.shape:
            merged = moments if merged is None else merged.merge(moments)
        else:
            total += float(moments.m2.sum())
    return total + (0.0 if merged is None else float(merged.m2.sum()))


def flips(pairs: Sequence[tuple[Tensor, Tensor]]) -> float | None:
    """Count decisions (the largest channel) that differ, as a share; None for one channel."""
    if any(a.shape[1] < 2 for a, _ in pairs):
        return None
    changed = [a.argmax(1) != b.argmax(1) for a, b in pairs]
    return float(torch.cat([c.flatten() for c in changed]).double().mean())


def _plain(output: Any) -> Any:
    """Look into objects with fields, which are no nest for PyTorch."""
    is_nest = isinstance(output, dict | list | tuple)
    return output if is_nest or not hasattr(output, "__dict__") else vars(output)
