"""Running statistics that are sums which were to be divided, or were divided once too often."""

from collections.abc import Iterator

from ...records import Finding
from ..evidence import Evidence, LayerEvidence
from ..sums import Sum, undivided
from .slow_momentum import left

OWN = 1.5
"""Times what the layer's own momentum and counter leave of the first statistics."""


def check(evidence: Evidence) -> Iterator[Finding]:
    """Find layers that hold (1 − dⁿ) times the statistics, as others keep them."""
    for layer in evidence.layers.values():
        found = sums(layer)
        if found is not None:
            yield _finding(layer, found)


def sums(layer: LayerEvidence) -> Sum | None:
    """Say what kind of sums they are, if the layer's own updates do not explain them."""
    found = undivided(layer)
    if found is None or (layer.is_learning and 1 - found.share <= OWN * left(layer)):
        return None
    return found


_KINDS = {
    "zero": "running_mean and running_var are both {share:.2g} times those of the data, as in an "
    "average that began at 0 and was not divided by 1 − dⁿ (Haiku's hidden)",
    "one": "running_mean is {share:.2g} times that of the data, and running_var as much and "
    "{rest:.2g} more, as in an average that began at 0 and 1 and was not divided (Equinox's mode "
    '"batch")',
    "over": "running_var is the variance of the data and {over:.2g} more in every channel, as in "
    'Equinox\'s mode "batch", which divides by 1 − dⁿ what began at 1',
}


def _finding(layer: LayerEvidence, found: Sum) -> Finding:
    share = found.share
    said = _KINDS[found.kind].format(share=share, rest=1 - share, over=(1 - share) / share)
    return Finding(
        rule="undivided_statistics",
        layer=layer.name,
        severity="error",
        what=f"its {said}",
        why="After n updates with decay d such a sum is 1 − dⁿ of the average; other frameworks "
        "divide when they use it. PyTorch does not, and inference normalizes by what is there.",
        remedy="bn.port.from_haiku(...) or bn.port.from_equinox(...), which divide, or\n"
        "bn.recalibrate(model, batches)  # batches of the data it is to be used on",
        source="Kingma & Ba 2015 (arXiv:1412.6980), section 3; haiku.ExponentialMovingAverage; "
        "equinox.nn.BatchNorm",
        numbers={"share": share, "own": left(layer) if layer.is_learning else None},
    )
