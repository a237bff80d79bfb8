"""The train/eval gap that is left after `recalibrate`; see `output_gap`."""

from ...records import Measure
from ..evidence import BATCH, RECALIBRATED, Evidence
from . import output_gap

MEASURE = Measure(
    name="gap_recalibrated",
    title="gap after recalibrate",
    meaning="The same, with statistics measured anew: what was not lag of the running statistics.",
    source=output_gap.MEASURE.source,
    unit="sd",
    calm=0.1,
    alarm=1.0,
    logarithmic=True,
)


def of(evidence: Evidence) -> float | None:
    """Give it for a network."""
    return output_gap.between(evidence, BATCH, RECALIBRATED)
