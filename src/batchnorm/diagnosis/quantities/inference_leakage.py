"""The same as `batch_leakage` in evaluation mode, where it must be 0.

It is not where a layer keeps no running statistics, or something else mixes samples. Of float32
kernels, rounding may leave about 10⁻⁶.
"""

from ...records import Measure
from ..evidence import INFERENCE, Evidence
from . import batch_leakage

MEASURE = Measure(
    name="inference_leakage",
    title="leak in inference",
    meaning="The same in evaluation mode; 0 where a sample's output depends on itself alone.",
    source=batch_leakage.MEASURE.source,
    unit="sd",
    calm=1e-5,
    alarm=0.1,
    logarithmic=True,
)


def of(evidence: Evidence) -> float | None:
    """Give it for a network; None where outputs have not one entry for each sample."""
    return evidence.leakage.get(INFERENCE)
