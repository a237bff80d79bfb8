"""How much better running mean and running variance fit with each other's names.

    e / e_exchanged

e is the larger of the relative errors of both vectors, rms(found − expected) / rms(expected) over
channels, e_exchanged the same with the mean taken for the variance, and the variance for the mean.
"""

from ...records import Measure
from ..evidence import LayerEvidence
from ..readings import exchanged

MEASURE = Measure(
    name="exchanged",
    title="exchanged",
    meaning="How many times nearer running mean and variance are to the data's variance and mean "
    "than to its mean and variance.",
    source="batchnorm.port: vectors of equal shape in one list",
    unit="",
    calm=1.0,
    alarm=5.0,
    logarithmic=True,
)


def of(layer: LayerEvidence) -> float | None:
    """Compute it for a layer."""
    return exchanged(layer)
