"""The typical magnitude of a layer's weight γ: the median over channels of |γ|.

It is what an output's standard deviation is set to. Regularization by weight decay, and small
batches, push it down.

Source: Luo et al. 2019 (arXiv:1809.00846).
"""

from ...records import Measure
from ..evidence import LayerEvidence

MEASURE = Measure(
    name="gamma",
    title="|γ|",
    meaning="Median over channels of the magnitude of the weight γ.",
    source="Luo et al. 2019 (arXiv:1809.00846)",
    unit="",
)


def of(layer: LayerEvidence) -> float | None:
    """Compute it for a layer."""
    return None if layer.weight is None else float(layer.weight.abs().median())
