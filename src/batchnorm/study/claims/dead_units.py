"""Claim 4: does batch normalization prevent dead ReLUs?

A unit (a channel, in a convolution) is dead when its ReLU is off for every sample of the whole
probe set at every position: max over x of ReLU(h(x)) <= 0. The probe set is the whole training
part; one batch overstates death. Counted at initialization (born dead) and at the end; died is
dead at the end and not at the start, revived the reverse. Values that are not finite are refused
first, as NaN <= 0 is false and would hide a diverged network.

Only ReLUs can die. Of sigmoids and other activations the share of saturated values is shown, and
the claim is not measurable there.

Source: Lu et al. 2019 (arXiv:1903.06733) for born dead; Glorot & Bengio 2010 for saturation.
"""

import torch
from torch import Tensor, nn

from ..evidence import Evidence
from ..outcome import DeadCount, Outcome
from ..probe import activation_inputs, by_unit
from .cell import POINTS, Cell, Definition, cells_by_condition, why_untrained

_RELUS = (nn.ReLU, nn.ReLU6)
_SATURATING = {nn.Sigmoid: (torch.sigmoid, 0.25), nn.Tanh: (torch.tanh, 1.0)}

SATURATION = 0.01
"""Share of the steepest slope below which an activation counts as saturated."""


def dead_mask(model: nn.Module, x: Tensor) -> Tensor | None:
    """Which units are dead, over all ReLUs in order of depth: bool of shape (units,).

    Returns:
        The mask, or None where there is no ReLU or a value is not finite.
    """
    inputs = [by_unit(h) for m, h in activation_inputs(model, x) if isinstance(m, _RELUS)]
    if not inputs or not all(bool(torch.isfinite(h).all()) for h in inputs):
        return None
    return torch.cat([h.amax(0) <= 0 for h in inputs])


def count_dead(born: Tensor | None, model: nn.Module, x: Tensor) -> DeadCount | None:
    """Compare the dead units at the end with those at the start.

    Args:
        born: `dead_mask` at initialization.
        model: The network at the end.
        x: The whole probe set.

    Returns:
        The counts; for a network without ReLUs, of 0 units with its saturation; None where
        values are not finite.
    """
    saturated = saturation(model, x)
    dead = dead_mask(model, x)
    if born is None or dead is None or born.shape != dead.shape:
        can_die = any(isinstance(module, _RELUS) for module in model.modules())
        return None if saturated is None or can_die else DeadCount(0, 0, 0, 0, 0, saturated)
    return DeadCount(
        units=dead.numel(),
        born_dead=int(born.sum()),
        died=int((dead & ~born).sum()),
        revived=int((born & ~dead).sum()),
        dead=int(dead.sum()),
        saturated=saturated,
    )


def saturation(model: nn.Module, x: Tensor) -> float | None:
    """Share of sigmoid and tanh values whose slope is below 1 % of the steepest.

    Returns:
        The share, or None where there is no such activation or a value is not finite.
    """
    flat = []
    for module, h in activation_inputs(model, x):
        if type(module) in _SATURATING:
            if not bool(torch.isfinite(h).all()):
                return None
            function, steepest = _SATURATING[type(module)]
            y = function(h)
            slope = y * (1 - y) if module.__class__ is nn.Sigmoid else 1 - y.square()
            flat.append((slope < SATURATION * steepest).reshape(-1))
    return float(torch.cat(flat).float().mean()) if flat else None


def dead_share(outcome: Outcome) -> float | None:
    """Share of the units that are dead at the end of a run."""
    count = outcome.dead
    return count.dead / count.units if count is not None and count.units else None


def cells(evidence: Evidence) -> list[Cell]:
    """Dead share without minus with, at the end of training."""
    return cells_by_condition(evidence, _difference, _why_missing)


DEFINITION = Definition(
    id="4",
    name="Dead units",
    quantity="share of dead units without batch normalization minus the share with it",
    scale="points",
    threshold=POINTS,
    source="Lu et al. 2019; the rule of the whole training set",
    cells=cells,
)


def _difference(without: Outcome, with_bn: Outcome) -> float | None:
    a, b = dead_share(without), dead_share(with_bn)
    return None if a is None or b is None else a - b


def _why_missing(evidence: Evidence, activation: str, condition: str) -> str:
    runs = [
        evidence.probe(activation, arm, condition, seed)
        for seed in range(evidence.design.seeds)
        for arm in evidence.design.arms
    ]
    counts = [run.dead for run in runs if run is not None and run.dead is not None]
    if counts and all(count.units == 0 for count in counts):
        return f"{activation} units are never exactly off, so that they cannot be dead"
    return why_untrained(evidence, activation, condition)
