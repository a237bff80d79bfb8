"""How far the outputs of inference are from those of training, on the same samples.

    √(Σ (y_inference − y_batch)² / Σ (y_batch − mean of its channel)²)

Dropout is off in both: it is the gap that normalization makes. Splitting it: what `recalibrate`
repairs was lag of the running statistics, what new batches of the same samples change is noise of
the batch, what is left is that batches are not alike.

Source: Wu & Johnson 2021 (arXiv:2105.07576), section 3.
"""

from ...records import Measure
from ..evidence import BATCH, INFERENCE, Evidence

MEASURE = Measure(
    name="output_gap",
    title="train/eval gap",
    meaning="Root mean square difference of the outputs in inference and by the batch's "
    "statistics, in standard deviations of the outputs.",
    source="Wu & Johnson 2021 (arXiv:2105.07576), section 3",
    unit="sd",
    calm=0.1,
    alarm=1.0,
    logarithmic=True,
)


def between(evidence: Evidence, first: str, second: str) -> float | None:
    """Give it for any two runs that were compared."""
    gap = evidence.gaps.get((first, second))
    return None if gap is None else gap.rms


def of(evidence: Evidence) -> float | None:
    """Give it for a network."""
    return between(evidence, BATCH, INFERENCE)
