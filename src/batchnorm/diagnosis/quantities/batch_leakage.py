"""How far the output for a sample depends on the other samples of its batch, as in training.

The second half of a batch is replaced by copies of one sample; measured is how far the outputs for
the first half move, in standard deviations of the outputs. It is a property of batch
normalization; where a sample must know nothing of the others (contrastive learning, private
data), it is a leak.

Source: He et al. 2020 (arXiv:1911.05722), section 3.3; Wu & Johnson 2021 (arXiv:2105.07576), 6.
"""

from ...records import Measure
from ..evidence import BATCH, Evidence

MEASURE = Measure(
    name="batch_leakage",
    title="leak in training",
    meaning="How far outputs move when the other half of their batch is replaced, in standard "
    "deviations of the outputs; by the batch's statistics.",
    source="He et al. 2020 (arXiv:1911.05722), section 3.3",
    unit="sd",
)


def of(evidence: Evidence) -> float | None:
    """Give it for a network; None where outputs have not one entry for each sample."""
    return evidence.leakage.get(BATCH)
