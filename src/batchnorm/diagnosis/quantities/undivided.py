"""How much better the running variance fits as a sum that was to be divided by 1 − dⁿ.

    e_found / e_sum,   e = rms over channels of ½ ln(σ²_run / predicted)

e_found takes it for the variance of the data, without what noise and the differences between
batches explain; e_sum is the smallest for a σ², a σ² + 1 − a and σ² + k, where a is the common
share of the data's mean in the running mean, Σ μ_run μ / σ² / Σ μ² / σ², and k the median over
channels of σ²_run − σ².

Source: Kingma & Ba 2015 (arXiv:1412.6980), section 3, for the division.
"""

from ...records import Measure
from ..evidence import LayerEvidence
from ..sums import nearer

MEASURE = Measure(
    name="undivided",
    title="undivided sum",
    meaning="How many times nearer the running variance is to that of a sum which was to be "
    "divided than to the variance of the data.",
    source="Kingma & Ba 2015 (arXiv:1412.6980), section 3",
    unit="",
    calm=1.0,
    alarm=5.0,
    logarithmic=True,
)


def of(layer: LayerEvidence) -> float | None:
    """Compute it for a layer."""
    return nearer(layer)
