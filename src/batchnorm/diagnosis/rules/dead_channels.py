"""Channels that say nothing: off for all samples, or scaled by 0."""

from collections.abc import Iterator

import torch
from torch import Tensor

from ...records import Finding
from ..evidence import BATCH, Evidence, LayerEvidence

SMALL = 1e-3
"""|γ| below which the output does not depend on the input, as in `quantities.switched_off`."""
MANY = 0.2
"""Share of the channels from which on it is more than worth knowing."""
RELUS = ("relu", "relu6", "threshold", "clamp_min")


def check(evidence: Evidence) -> Iterator[Finding]:
    """Find layers with channels that are lost."""
    for layer in evidence.layers.values():
        off = dead(layer)
        if off is None or not bool(off.any()):
            continue
        if layer.weight is not None and bool((layer.weight == 0).all()):
            yield _initial(layer)
        else:
            yield _finding(layer, off)


def dead(layer: LayerEvidence) -> Tensor | None:
    """Say which channels are lost, bool (C,): γ near 0, or never above 0 in front of a ReLU.

    None for a layer that was not called, or has no weight of its own.
    """
    weight, bias, calls = layer.weight, layer.bias, layer.runs.get(BATCH)
    if weight is None or calls is None:
        return None
    invstd = (calls.var + layer.eps).rsqrt()
    ends = torch.stack((calls.minimum - calls.mean, calls.maximum - calls.mean)) * invstd * weight
    highest = ends.amax((0, 1)) + (0 if bias is None else bias)
    off = weight.abs() < SMALL
    return off | (highest <= 0) if _is_in_front_of_relu(layer) else off


def _is_in_front_of_relu(layer: LayerEvidence) -> bool:
    if layer.options.get("activation") == "relu":
        return True
    return bool(layer.read_by) and all(n.what.lower().strip("_") in RELUS for n in layer.read_by)


def _finding(layer: LayerEvidence, off: Tensor) -> Finding:
    number, share = int(off.sum()), float(off.double().mean())
    return Finding(
        rule="dead_channels",
        layer=layer.name,
        severity="warning" if share >= MANY else "information",
        what=f"{number} of {layer.num_features} channels are dead: for no sample above 0 in front "
        f"of their ReLU, or scaled by less than {SMALL:g}",
        why="They use memory and time, and no gradient brings them back. (a) A learning rate or a "
        "penalty on the scales that is too large; (b) weights loaded in a wrong order; (c) weight "
        "decay over a long training.",
        remedy="a smaller learning rate or penalty, no weight decay on weight and bias; or prune "
        "these channels",
        source="Lu et al. 2019 (arXiv:1903.06733); Liu et al. 2017 (arXiv:1708.06519) on slimming",
        numbers={"channels": float(number), "share": share, "many": MANY},
    )


def _initial(layer: LayerEvidence) -> Finding:
    return Finding(
        rule="dead_channels",
        layer=layer.name,
        severity="information",
        what="all its weights are exactly 0",
        why="So begins the last layer of a residual branch in many recipes; after training it "
        "means that the branch was never learned.",
        remedy="nothing, before training",
        source="Goyal et al. 2017 (arXiv:1706.02677), section 5.1",
        numbers={"channels": float(layer.num_features), "share": 1.0},
    )
