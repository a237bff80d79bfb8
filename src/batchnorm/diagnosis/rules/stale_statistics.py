"""Running statistics that are not those of the data."""

import math
from collections.abc import Iterator

from ...records import Finding
from ..distances import LOG_STD_ERROR, MEAN_ERROR, Distances, distances
from ..evidence import Evidence, LayerEvidence
from ..readings import is_something_else
from . import never_updated, slow_momentum, undivided_statistics


def check(evidence: Evidence) -> Iterator[Finding]:
    """Find layers whose statistics lag behind, where no other rule knows why."""
    for layer in evidence.layers.values():
        far = distances(layer)
        if far is None or not far.is_far:
            continue
        if never_updated.is_untouched(layer) or slow_momentum.is_slow(layer):
            continue
        if not is_something_else(layer) and undivided_statistics.sums(layer) is None:
            yield _finding(layer, far)


def _finding(layer: LayerEvidence, far: Distances) -> Finding:
    return Finding(
        rule="stale_statistics",
        layer=layer.name,
        severity="error",
        what=f"its running statistics are not those of the data: the mean is off by {far.mean:.2g} "
        f"standard deviations, the standard deviation by a factor of {math.exp(far.log_std):.2g}",
        why="Inference normalizes by them, training by the batch, so eval() computes another "
        "function than train(). (a) The weights moved on, or were averaged, after the last update; "
        "(b) updates went missing; (c) these data are not those it was trained on; (d) a layer "
        "before was ported with another eps.",
        remedy="bn.recalibrate(model, batches)  # batches of the data it is to be used on",
        source="Wu & Johnson 2021 (arXiv:2105.07576), section 3",
        numbers={
            "mean_error": far.mean,
            "log_std_error": far.log_std,
            "mean_threshold": MEAN_ERROR,
            "log_std_threshold": LOG_STD_ERROR,
        },
    )
