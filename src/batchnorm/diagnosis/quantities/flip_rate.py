"""The share of decisions (the largest output channel) that differ between training and inference.

On the same samples, without dropout. None for outputs of one channel.

Source: Wu & Johnson 2021 (arXiv:2105.07576), section 3, for the inconsistency.
"""

from ...records import Measure
from ..evidence import BATCH, INFERENCE, Evidence

MEASURE = Measure(
    name="flip_rate",
    title="decisions flipped",
    meaning="Share of samples (and positions) whose largest output channel differs between "
    "inference and normalization by the batch.",
    source="Wu & Johnson 2021 (arXiv:2105.07576), section 3",
    unit="share",
    calm=0.02,
    alarm=0.3,
)


def of(evidence: Evidence) -> float | None:
    """Give it for a network."""
    gap = evidence.gaps.get((BATCH, INFERENCE))
    return None if gap is None else gap.flips
