"""Running statistics that are not those of the data, or were never updated."""

import math
from collections.abc import Iterator

from ...records import Finding
from ..evidence import Evidence, LayerEvidence
from ..quantities import log_std_error, mean_error

MEAN_ERROR = 0.3
"""In standard deviations."""
LOG_STD_ERROR = 0.2


def check(evidence: Evidence) -> Iterator[Finding]:
    """Find layers whose running statistics are far from those of the data."""
    for layer in evidence.layers.values():
        mean, std = mean_error.of(layer), log_std_error.of(layer)
        if mean is None or std is None:
            continue
        if mean > MEAN_ERROR or std > LOG_STD_ERROR:
            yield _finding(layer, mean, std)


def _finding(layer: LayerEvidence, mean: float, std: float) -> Finding:
    never = layer.num_batches_tracked == 0
    state = "were never updated" if never else "are not those of the data"
    return Finding(
        rule="stale_statistics",
        layer=layer.name,
        severity="error",
        what=f"its running statistics {state}: the mean is off by {mean:.2g} standard deviations, "
        f"the deviation by a factor of {math.exp(std):.2g}",
        why="Inference normalizes by them; training by the batch. So eval() computes another "
        "function than train() did.",
        remedy="bn.recalibrate(model, batches)",
        source=mean_error.MEASURE.source,
        numbers={"mean_error": mean, "log_std_error": std},
    )
