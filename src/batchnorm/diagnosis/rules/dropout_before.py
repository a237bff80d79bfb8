"""Dropout in front of batch normalization."""

import math
from collections.abc import Iterator

from ...records import Finding
from ...surgery.graph.graph import Call, Graph, Value, values_in
from ...surgery.kinds import NORMS
from ..evidence import BATCH, TRAINING, Evidence, LayerEvidence
from ..neighbors import DROPOUTS
from ..quantities.log_std_error import log_std_error

SHIFT = 0.05
"""Logarithm of the ratio of standard deviations in training and without dropout;
docs/diagnose_calibration.md."""


def check(evidence: Evidence) -> Iterator[Finding]:
    """Find layers whose input has another variance in training, because of dropout."""
    for layer in evidence.layers.values():
        size = shift(layer) if layer.is_learning else None
        if size is None or evidence.graph is None:
            continue
        names = sorted(dropouts_before(evidence.graph, layer.name))
        if names:
            yield _finding(layer, names, size)


def shift(layer: LayerEvidence) -> float | None:
    """Compare standard deviations with dropout and without, root mean square over channels."""
    if TRAINING not in layer.runs or BATCH not in layer.runs:
        return None
    with_it, without = (layer.runs[run].pooled().var(correction=1) for run in (TRAINING, BATCH))
    return float(log_std_error(with_it, without, layer.eps).square().mean().sqrt())


def dropouts_before(graph: Graph, name: str) -> set[str]:
    """Name the dropout on the ways to a layer, back to the normalization before."""
    found: set[str] = set()
    open_ = [v for call in graph.calls_of(name) for v in values_in((call.args, call.kwargs))]
    seen: set[int] = set()
    while open_:
        value = open_.pop()
        if id(value) in seen or not value.varies:
            continue
        seen.add(id(value))
        found |= {str(call) for call in graph.calls if _is_dropout(call) and _gives(call, value)}
        step = value.made_by
        if step is not None and not any(_is_norm(call) for call in step.calls):
            open_ += step.reads
    return found


def _is_dropout(call: Call) -> bool:
    """Modules; and functions that are called outside of them."""
    if isinstance(call.what, type):
        return issubclass(call.what, DROPOUTS)
    return "dropout" in getattr(call.what, "__name__", "") and not any(map(_is_dropout, call.outer))


def _is_norm(call: Call) -> bool:
    return isinstance(call.what, type) and issubclass(call.what, NORMS)


def _gives(call: Call, value: Value) -> bool:
    return any(v is value for v in values_in(call.outputs))


def _finding(layer: LayerEvidence, names: list[str], size: float) -> Finding:
    return Finding(
        rule="dropout_before",
        layer=layer.name,
        severity="warning" if size > SHIFT else "information",
        what=f"{', '.join(names)} in front of it changes the standard deviation of its input by a "
        f"factor of {math.exp(size):.3g} in training",
        why="The running variance is learned with dropout and used without: inference divides by "
        "too much.",
        remedy="move dropout behind the last batch normalization; or, for what is trained,\n"
        "bn.recalibrate(model, batches)  # measures without dropout",
        source="Li et al. 2019 (arXiv:1801.05134), section 3: variance shift",
        numbers={"log_std_shift": size, "threshold": SHIFT},
    )
