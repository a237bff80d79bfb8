"""Batches that are not random draws of the data."""

import dataclasses
from collections.abc import Iterator

from torch import Tensor

from ...records import Finding
from ..evidence import BATCH, Calls, Evidence, LayerEvidence
from ..quantities.between_batch import between_batch
from . import mixed_domains

RATIO = 4.0
"""Of the variance between batches to that which random batches have; docs/diagnose_calibration.md.
"""
FEWEST = 4
"""Batches, for the ratio to mean anything."""


def check(evidence: Evidence) -> Iterator[Finding]:
    """Find layers that get another distribution from batch to batch."""
    for layer in evidence.layers.values():
        found = ratio(layer)
        if found is None or found <= RATIO:
            continue
        if layer.is_learning and mixed_domains.split(layer) is None:
            yield _finding(layer, found)


def ratio(layer: LayerEvidence) -> float | None:
    """Compute the ratio, median over channels, of the first call in each batch.

    None for too few batches.
    """
    calls = layer.runs.get(BATCH)
    if calls is None or len(set(calls.batch)) < FEWEST:
        return None
    return float(between_batch(first_calls(calls)).nanmedian())


def first_calls(calls: Calls) -> Calls:
    """Leave the first call in each batch."""
    rows = [row for row, batch in enumerate(calls.batch) if batch not in calls.batch[:row]]
    tensors = {
        field.name: getattr(calls, field.name)[rows]
        for field in dataclasses.fields(calls)
        if isinstance(getattr(calls, field.name), Tensor) and field.name != "histogram"
    }
    return dataclasses.replace(
        calls,
        batch=tuple(calls.batch[row] for row in rows),
        statistics=tuple(calls.statistics[row] for row in rows),
        **tensors,
    )


def _finding(layer: LayerEvidence, found: float) -> Finding:
    return Finding(
        rule="unlike_batches",
        layer=layer.name,
        severity="warning",
        what=f"batches differ {found:.3g} times as much (in variance of their means) as batches "
        "drawn at random would",
        why="A batch's own statistics tell the network what kind of batch it is in, in training "
        "alone; and running statistics are those of the latest batches. (a) Data sorted by class "
        "or source; (b) one video, patient or author to a batch; (c) domains in turns.",
        remedy="DataLoader(..., shuffle=True)\n"
        "# where batches must be so: BatchNorm2d(..., renorm=bn.Renorm(...)), or statistics for "
        "each kind",
        source="Wu & Johnson 2021 (arXiv:2105.07576), sections 4 and 5; Ioffe 2017 "
        "(arXiv:1702.03275), section 4.3",
        numbers={"between_batch": found, "threshold": RATIO},
    )
