"""How much of its dtype's range a layer uses: the largest magnitude over the largest number.

Of inputs and outputs, in the run as in training; from 1 on values overflow.

Source: Micikevicius et al. 2018 (arXiv:1710.03740), section 3.2.
"""

import torch

from ...records import Measure
from ..evidence import TRAINING, LayerEvidence

MEASURE = Measure(
    name="magnitude",
    title="of the range",
    meaning="Largest magnitude among inputs and outputs over the largest number of their dtype.",
    source="Micikevicius et al. 2018 (arXiv:1710.03740), section 3.2",
    unit="share",
    calm=0.01,
    alarm=0.25,
    logarithmic=True,
)


def of(layer: LayerEvidence) -> float | None:
    """Compute it for a layer."""
    if TRAINING not in layer.runs or layer.input_dtype is None or layer.output_dtype is None:
        return None
    calls = layer.runs[TRAINING]
    given = torch.maximum(calls.maximum.abs(), calls.minimum.abs()).max()
    shares = (
        float(given) / torch.finfo(layer.input_dtype).max,
        float(calls.output_largest.max()) / torch.finfo(layer.output_dtype).max,
    )
    return max(shares) if shares[0] == shares[0] else shares[0]  # NaN is not lost
