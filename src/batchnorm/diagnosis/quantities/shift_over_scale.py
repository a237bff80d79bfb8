"""How a layer's shifts compare with its scales.

    median over channels of β / median over channels of |γ|

Layers begin with β = 0 and γ = 1. Where all β are positive and larger than γ, the two may have been
exchanged; that they were, only a trial shows.
"""

from ...records import Measure
from ..evidence import LayerEvidence

MEASURE = Measure(
    name="shift_over_scale",
    title="β / |γ|",
    meaning="Median over channels of the bias β, over the median of |γ|.",
    source="Ioffe & Szegedy 2015 (arXiv:1502.03167), Algorithm 1, for β and γ",
    unit="",
)


def of(layer: LayerEvidence) -> float | None:
    """Compute it for a layer."""
    if layer.weight is None or layer.bias is None:
        return None
    scale = float(layer.weight.abs().median())
    return float(layer.bias.median()) / scale if scale > 0 else None
