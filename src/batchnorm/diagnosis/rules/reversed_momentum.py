"""A momentum that counts the old value, as other frameworks have it."""

from collections.abc import Iterator

from ...records import Finding
from ..evidence import Evidence, LayerEvidence

MOMENTUM = 0.5
"""Weight of the new batch beyond which a running statistic is of hardly more than two batches."""


def check(evidence: Evidence) -> Iterator[Finding]:
    """Find layers whose statistics are those of the last batch, nearly."""
    for layer in evidence.layers.values():
        if layer.is_learning and layer.momentum is not None and layer.momentum > MOMENTUM:
            yield _finding(layer, layer.momentum)


def _finding(layer: LayerEvidence, momentum: float) -> Finding:
    return Finding(
        rule="reversed_momentum",
        layer=layer.name,
        severity="warning",
        what=f"momentum is {momentum:g}: the last batch alone makes {momentum:.0%} of its running "
        "statistics",
        why="PyTorch's momentum is the weight of the new value; that of Keras, Flax and ONNX is "
        "that of the old one. Inference then depends on which batch came last.",
        remedy=f"model.get_submodule({layer.name!r}).momentum = {1 - momentum:.4g}\n"
        "bn.recalibrate(model, batches)",
        source="torch.nn.BatchNorm2d, note on momentum; keras.layers.BatchNormalization",
        numbers={"momentum": momentum, "usual": 1 - momentum},
    )
