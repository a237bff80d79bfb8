"""How far outputs move when the same samples are put into other batches; see `output_gap`.

With random batches it is the noise that a batch adds to its samples, twice: √2 of one draw.
"""

from ...records import Measure
from ..evidence import BATCH, REDRAWN, Evidence
from . import output_gap

MEASURE = Measure(
    name="gap_redrawn",
    title="gap in other batches",
    meaning="Root mean square difference of the outputs for the same samples in other batches, "
    "drawn at random, in standard deviations of the outputs.",
    source=output_gap.MEASURE.source,
    unit="sd",
    calm=0.2,
    alarm=1.0,
    logarithmic=True,
)


def of(evidence: Evidence) -> float | None:
    """Give it for a network; None where samples could not be put into other batches."""
    return output_gap.between(evidence, BATCH, REDRAWN)
