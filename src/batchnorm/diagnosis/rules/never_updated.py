"""Running statistics that are still those of a new layer: mean 0, variance 1."""

import math
from collections.abc import Iterator

from ...records import Finding
from ..distances import distances
from ..evidence import Evidence, LayerEvidence


def check(evidence: Evidence) -> Iterator[Finding]:
    """Find layers that never learned statistics, where those of the data are others."""
    for layer in evidence.layers.values():
        if is_untouched(layer) and (far := distances(layer)) is not None and far.is_far:
            yield _finding(layer, far.mean, far.log_std)


def is_untouched(layer: LayerEvidence) -> bool:
    """Whether the statistics are exactly those that a new layer has."""
    mean, var = layer.running_mean, layer.running_var
    return mean is not None and var is not None and bool((mean == 0).all() and (var == 1).all())


def _finding(layer: LayerEvidence, mean: float, log_std: float) -> Finding:
    updates = layer.num_batches_tracked
    counted = "" if updates is None else f", num_batches_tracked is {updates}"
    return Finding(
        rule="never_updated",
        layer=layer.name,
        severity="error",
        what=f"its running statistics are those of a new layer (0 and 1{counted}); those of the "
        f"data are {mean:.2g} standard deviations and a factor of {math.exp(log_std):.2g} away",
        why="Inference normalizes by them. Buffers get lost in checkpoints of parameters alone and "
        "with load_state_dict(strict=False); with momentum=0 they never move.",
        remedy="bn.recalibrate(model, batches)",
        source="Wu & Johnson 2021 (arXiv:2105.07576), section 3",
        numbers={"mean_error": mean, "log_std_error": log_std, "updates": updates},
    )
