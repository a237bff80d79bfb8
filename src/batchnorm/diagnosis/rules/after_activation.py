"""Batch normalization behind the activation."""

from collections.abc import Iterator

from ...records import Finding
from ..evidence import Evidence, LayerEvidence, Neighbor

PASSED = ("dropout", "position")
"""What may stand between."""


def check(evidence: Evidence) -> Iterator[Finding]:
    """Find layers fed by an activation."""
    for layer in evidence.layers.values():
        nearest = next((n for n in layer.fed_by if n.kind not in PASSED), None)
        if nearest is not None and nearest.kind == "activation":
            yield _finding(layer, nearest)


def _finding(layer: LayerEvidence, nearest: Neighbor) -> Finding:
    return Finding(
        rule="after_activation",
        layer=layer.name,
        severity="information",
        what=f"it stands behind an activation ({nearest.what})",
        why="The article puts it in front: there values are closest to a bell curve, and the "
        "activation gets them centered. Behind, it is the next layer that does. Both are in use.",
        remedy="layer, batch normalization, activation: compare both, for instance with\n"
        "batchnorm study; folding for inference is possible behind the next layer only",
        source="Ioffe & Szegedy 2015 (arXiv:1502.03167), section 3.2",
        numbers={},
    )
