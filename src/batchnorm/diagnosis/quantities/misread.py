"""How much better the running variance fits as something else than a variance.

    e_found / e_other,   e = rms over channels of ½ ln(σ²_run / predicted)

e_found takes it for the variance of the data, without what noise and the differences between
batches explain; e_other is the smallest for standard deviations, their inverses, inverse variances
and mean squares, with eps as part of the variance.
"""

from ...records import Measure
from ..evidence import LayerEvidence
from ..readings import best_reading

MEASURE = Measure(
    name="misread",
    title="no variance",
    meaning="How many times nearer the running variance is to standard deviations, their inverses, "
    "inverse variances or mean squares of the data than to its variances.",
    source="keras.layers.BatchNormalization(renorm=True), moving_stddev",
    unit="",
    calm=1.0,
    alarm=5.0,
    logarithmic=True,
)


def of(layer: LayerEvidence) -> float | None:
    """Compute it for a layer."""
    best = best_reading(layer)
    return None if best is None else best.times
