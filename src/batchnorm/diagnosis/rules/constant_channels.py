"""Channels that never change."""

from collections.abc import Iterator

from ...records import Finding
from ..distances import constant
from ..evidence import Evidence, LayerEvidence


def check(evidence: Evidence) -> Iterator[Finding]:
    """Find channels with one value at all samples and positions of all batches."""
    for layer in evidence.layers.values():
        channels = constant(layer)
        if channels is not None and bool(channels.any()):
            yield _finding(layer, channels.nonzero().flatten().tolist())


def _finding(layer: LayerEvidence, channels: list[int]) -> Finding:
    first = ", ".join(map(str, channels[:5])) + (", ..." if len(channels) > 5 else "")
    return Finding(
        rule="constant_channels",
        layer=layer.name,
        severity="warning",
        what=f"{len(channels)} of {layer.num_features} channels ({first}) are constant over all "
        "batches",
        why=f"Their variance is 0, so the output is the bias and the weight learns nothing; and "
        f"inference divides by √eps: whatever differs from the constant there comes out "
        f"{layer.eps**-0.5:.0f} times as large.",
        remedy="leave out inputs that never change; for a unit that is dead further up, see there, "
        "or prune it",
        source="Ioffe & Szegedy 2015 (arXiv:1502.03167), Algorithm 1",
        numbers={"channels": float(len(channels)), "of": float(layer.num_features)},
    )
