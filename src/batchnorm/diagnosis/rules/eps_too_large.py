"""Variances that drown in eps."""

from collections.abc import Iterator

from ...records import Finding
from ..distances import constant
from ..evidence import BATCH, Evidence, LayerEvidence
from ..quantities.variance_over_eps import variance_within

TIMES = 10.0
"""Variance over eps below which a channel is hardly normalized: its output has a standard
deviation of √(10/11) = 0.95 or less."""


def check(evidence: Evidence) -> Iterator[Finding]:
    """Find layers that eps keeps from normalizing: half of the channels that change at all."""
    for layer in evidence.layers.values():
        ratio = typical_ratio(layer)
        if ratio is not None and ratio < TIMES:
            yield _finding(layer, ratio)


def typical_ratio(layer: LayerEvidence) -> float | None:
    """Compute the median over channels of variance over eps; constant channels do not count."""
    still = constant(layer)
    if still is None or bool(still.all()):
        return None
    return float(variance_within(layer.runs[BATCH])[~still].nanmedian()) / layer.eps


def _finding(layer: LayerEvidence, ratio: float) -> Finding:
    scale = (ratio / (ratio + 1)) ** 0.5
    return Finding(
        rule="eps_too_large",
        layer=layer.name,
        severity="warning",
        what=f"the variance of a typical channel is {ratio:.2g} times eps ({layer.eps:g}): what it "
        f"gives out has a standard deviation of {scale:.2g} instead of 1",
        why="With a variance near or below eps the layer scales by a constant instead of "
        "normalizing. (a) Inputs that are scaled down twice; (b) an eps from another framework "
        "(Keras has 0.001); (c) weights that have shrunk.",
        remedy=f"scale the inputs to a variance of 1, or, if they have to be so small,\n"
        f"model.get_submodule({layer.name!r}).eps = {layer.eps * ratio / 100:.1g}",
        source="Ioffe & Szegedy 2015 (arXiv:1502.03167), Algorithm 1; "
        "keras.layers.BatchNormalization",
        numbers={"variance_over_eps": ratio, "eps": layer.eps, "threshold": TIMES},
    )
