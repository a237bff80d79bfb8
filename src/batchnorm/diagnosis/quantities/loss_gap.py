"""The loss in inference minus that by the batch's statistics, on the same samples.

    ΔL = mean of L_inference − mean of L_batch

Each sample counts alike. Without dropout in both.

Source: Wu & Johnson 2021 (arXiv:2105.07576), section 3.
"""

from ...records import Measure
from ..evidence import BATCH, INFERENCE, Evidence

MEASURE = Measure(
    name="loss_gap",
    title="loss gap",
    meaning="Mean loss in inference minus mean loss by the batch's statistics.",
    source="Wu & Johnson 2021 (arXiv:2105.07576), section 3",
    unit="",
)


def mean_loss(evidence: Evidence, run: str) -> float | None:
    """Average the losses of the batches of a run, each by its number of samples."""
    losses, sizes = evidence.losses.get(run), evidence.loader.sizes
    if not losses:
        return None
    weights = sizes if sum(sizes) else (1,) * len(losses)
    return sum(n * v for n, v in zip(weights, losses, strict=True)) / sum(weights)


def of(evidence: Evidence) -> float | None:
    """Compute it for a network; None without a loss."""
    first, second = mean_loss(evidence, BATCH), mean_loss(evidence, INFERENCE)
    return None if first is None or second is None else second - first
