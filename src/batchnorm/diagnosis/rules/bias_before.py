"""A bias in front of batch normalization."""

from collections.abc import Iterator

from ...records import Finding
from ..evidence import Evidence, LayerEvidence


def check(evidence: Evidence) -> Iterator[Finding]:
    """Find layers fed by a convolution or a linear layer with a bias."""
    for layer in evidence.layers.values():
        nearest = layer.fed_by[0] if layer.fed_by else None
        if nearest is not None and nearest.kind == "layer" and nearest.has_bias:
            yield _finding(layer, nearest.name or "the model itself", nearest.what)


def _finding(layer: LayerEvidence, feeder: str, what: str) -> Finding:
    return Finding(
        rule="bias_before",
        layer=layer.name,
        severity="information",
        what=f"{feeder} ({what}) in front of it has a bias, which it subtracts again with the mean",
        why="The bias gets no gradient, costs memory, and under weight decay or in a checkpoint of "
        "another framework only confuses. Nothing is computed wrongly.",
        remedy="bias=False there; bn.fold(model, *inputs) takes both away for inference",
        source="Ioffe & Szegedy 2015 (arXiv:1502.03167), section 3.2",
        numbers={},
    )
