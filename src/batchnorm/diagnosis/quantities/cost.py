"""What the diagnosis cost: seconds for all of its runs over the batches."""

from ...records import Measure
from ..evidence import Evidence

MEASURE = Measure(
    name="cost",
    title="cost",
    meaning="Seconds that the runs over the batches took, all together.",
    source="measured",
    unit="s",
)


def of(evidence: Evidence) -> float | None:
    """Give it for a diagnosis."""
    return sum(evidence.seconds.values())
