"""A momentum too small for the number of updates: statistics that have not come far yet."""

from collections.abc import Iterator

from ...records import Finding
from ..distances import Distances, distances
from ..evidence import Evidence, LayerEvidence
from ..readings import is_something_else

LEFT = 0.05
"""Share of what the statistics began with."""
MEAN_ERROR = 0.1
"""Standard deviations from which on that is worth a word."""
LOG_STD_ERROR = 0.1


def check(evidence: Evidence) -> Iterator[Finding]:
    """Find layers that have not had time to forget 0 and 1."""
    for layer in evidence.layers.values():
        far = distances(layer)
        if far is None or not is_slow(layer) or is_something_else(layer):
            continue
        if far.mean > MEAN_ERROR or far.log_std > LOG_STD_ERROR:
            yield _finding(layer, far)


def is_slow(layer: LayerEvidence) -> bool:
    """Whether more than `LEFT` of the first statistics is left in the average."""
    return layer.is_learning and bool(layer.num_batches_tracked) and left(layer) > LEFT


def left(layer: LayerEvidence) -> float:
    """Compute the share of the first statistics, (1 - momentum) ** updates."""
    if layer.momentum is None or layer.num_batches_tracked is None:
        return 0.0
    return float(abs(1 - layer.momentum) ** layer.num_batches_tracked)


def _finding(layer: LayerEvidence, far: Distances) -> Finding:
    updates = layer.num_batches_tracked or 0
    return Finding(
        rule="slow_momentum",
        layer=layer.name,
        severity="error" if far.is_far else "warning",
        what=f"after {updates} updates with momentum {layer.momentum:g}, {left(layer):.0%} of its "
        f"running statistics is still what they began with; the mean is off by {far.mean:.2g} "
        f"standard deviations",
        why="PyTorch's momentum is the weight of the new batch: a statistic follows within about "
        "1/momentum updates, and inference uses it as it is by then.",
        remedy=f"layer = model.get_submodule({layer.name!r})\n"
        "layer.momentum = 0.1  # or None, for the average of all batches\n"
        "bn.recalibrate(model, batches)",
        source="Wu & Johnson 2021 (arXiv:2105.07576), section 3.1",
        numbers={
            "left": left(layer),
            "updates": float(updates),
            "momentum": layer.momentum,
            "mean_error": far.mean,
            "log_std_error": far.log_std,
        },
    )
