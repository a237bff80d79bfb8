"""The root mean square of the error signal that reaches the outputs of a layer.

    d_l = √(mean of (∂L/∂y)²)

Beside the depth it shows where the backward signal grows or dies.

Source: He et al. 2015 (arXiv:1502.01852), section 2.2.
"""

from ...records import Measure
from ..evidence import LayerEvidence

MEASURE = Measure(
    name="error_rms",
    title="error signal",
    meaning="Root mean square of the gradient of the loss with respect to the outputs.",
    source="He et al. 2015 (arXiv:1502.01852), section 2.2",
    unit="",
)


def of(layer: LayerEvidence) -> float | None:
    """Give it for a layer; None without a loss."""
    return layer.error_rms
