"""Statistics that the next batch overwrites: a cumulative average that counts none so far."""

from collections.abc import Iterator

from ...records import Finding
from ..evidence import Evidence, LayerEvidence
from .never_updated import is_untouched


def check(evidence: Evidence) -> Iterator[Finding]:
    """Find layers with momentum=None, statistics, and a counter of 0."""
    for layer in evidence.layers.values():
        counts_none = layer.momentum is None and layer.num_batches_tracked == 0
        if layer.is_learning and counts_none and not is_untouched(layer):
            yield _finding(layer)


def _finding(layer: LayerEvidence) -> Finding:
    return Finding(
        rule="uncounted_statistics",
        layer=layer.name,
        severity="warning",
        what="momentum is None and num_batches_tracked is 0, beside running statistics that are "
        "not those of a new layer: the next batch in training replaces them",
        why="The average of all batches gives batch n the weight 1/n, so the first that is counted "
        "has the weight 1. Checkpoints of other frameworks, and old ones, have no counter.",
        remedy=f"layer = model.get_submodule({layer.name!r})\n"
        "layer.num_batches_tracked.fill_(1000)  # batches the statistics are of, about",
        source="torch.nn.BatchNorm2d, momentum=None: exponential_average_factor = "
        "1.0 / num_batches_tracked",
        numbers={"updates": 0.0},
    )
