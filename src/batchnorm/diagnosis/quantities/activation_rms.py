"""The root mean square of the outputs of a layer, as in training.

    a_l = √(mean of y²)

Beside the depth it shows where the forward signal grows or dies.

Source: He et al. 2015 (arXiv:1502.01852), section 2.2.
"""

from ...records import Measure
from ..evidence import TRAINING, LayerEvidence

MEASURE = Measure(
    name="activation_rms",
    title="output",
    meaning="Root mean square of the outputs, as in training.",
    source="He et al. 2015 (arXiv:1502.01852), section 2.2",
    unit="",
)


def of(layer: LayerEvidence) -> float | None:
    """Compute it for a layer, over all its calls; each counts alike."""
    if TRAINING not in layer.runs:
        return None
    return float(layer.runs[TRAINING].output_rms.square().mean().sqrt())
