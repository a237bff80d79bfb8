"""One layer called several times in a forward."""

import math
from collections.abc import Iterator

from ...moments import Moments
from ...records import Finding
from ..distances import LOG_STD_ERROR, MEAN_ERROR
from ..evidence import BATCH, Calls, Evidence, LayerEvidence
from ..quantities.log_std_error import log_std_error
from ..quantities.mean_error import mean_error


def check(evidence: Evidence) -> Iterator[Finding]:
    """Find layers with one set of statistics for several places."""
    for layer in evidence.layers.values():
        if layer.calls > 1 and BATCH in layer.runs and layer.mode == "learning":
            yield _finding(layer, *apart(layer.runs[BATCH], layer.eps))


def apart(calls: Calls, eps: float) -> tuple[float, float]:
    """Measure how far a place is from the average of all, as root mean squares over channels.

    Returns:
        Of the mean, in standard deviations of all, and of the logarithm of the standard deviation;
        those of the place that is farthest.
    """
    every = calls.pooled()
    var = every.var(correction=1)
    shifts, ratios = [], []
    for rows in places(calls):
        one = Moments.zeros(len(every.mean), dtype=every.mean.dtype)
        for row in rows:
            one = one.merge(calls.moments(row))
        shift = mean_error(one.mean, every.mean, var, eps)
        ratio = log_std_error(one.var(correction=1), var, eps)
        shifts.append(float(shift.square().mean().sqrt()))
        ratios.append(float(ratio.square().mean().sqrt()))
    return max(shifts), max(ratios)


def places(calls: Calls) -> list[list[int]]:
    """Sort calls by their place in the forward: the first calls of all batches, the second, ..."""
    seen: dict[int, int] = {}
    sorted_: list[list[int]] = []
    for row, batch in enumerate(calls.batch):
        place = seen[batch] = seen.get(batch, -1) + 1
        if place == len(sorted_):
            sorted_.append([])
        sorted_[place].append(row)
    return sorted_


def _finding(layer: LayerEvidence, mean: float, log_std: float) -> Finding:
    differ = mean > MEAN_ERROR or log_std > LOG_STD_ERROR
    return Finding(
        rule="shared_layer",
        layer=layer.name,
        severity="error" if differ else "information",
        what=f"it is called {layer.calls:.3g} times in a forward, on inputs up to {mean:.2g} "
        f"standard deviations and a factor of {math.exp(log_std):.2g} from their average",
        why="Training normalizes each call by itself, inference all calls by one average of the "
        "places, which is right for none; and each forward is several updates.",
        remedy="a layer for every place: self.norm1, self.norm2 = (bn.BatchNorm1d(width) for _ in "
        "range(2))",
        source="Cooijmans et al. 2017 (arXiv:1603.09025), section 3; fvcore's update_bn_stats "
        "refuses such layers",
        numbers={"calls": layer.calls, "mean_apart": mean, "log_std_apart": log_std},
    )
