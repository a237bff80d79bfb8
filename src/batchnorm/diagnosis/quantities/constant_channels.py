"""The share of channels whose variance is below ten times eps: constant, for normalization.

Their output is that of noise, or next to nothing: a factor below √(10/11) of standard deviation 1.

Source: Ioffe & Szegedy 2015 (arXiv:1502.03167), Algorithm 1, for eps.
"""

from ...records import Measure
from ..evidence import BATCH, LayerEvidence
from .variance_over_eps import variance_within

MEASURE = Measure(
    name="constant_channels",
    title="constant channels",
    meaning="Share of channels whose variance within a batch is below 10 eps.",
    source="Ioffe & Szegedy 2015 (arXiv:1502.03167), Algorithm 1",
    unit="share",
    calm=0.0,
    alarm=0.5,
)

FEW_EPS = 10.0


def of(layer: LayerEvidence) -> float | None:
    """Compute it for a layer."""
    if BATCH not in layer.runs:
        return None
    small = variance_within(layer.runs[BATCH]) < FEW_EPS * layer.eps
    return float(small.double().mean())
