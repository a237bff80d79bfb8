"""Gradients accumulated over micro-batches, statistics not."""

from collections.abc import Iterator

from ...records import Finding
from ..evidence import Evidence, LayerEvidence
from ..quantities import effective_batch

ENOUGH = 32.0
"""Effective size of a micro-batch from which on its statistics will do."""
MOST = 64
"""Micro-batches to a step; beyond that, the count is more likely from another training."""


def check(evidence: Evidence) -> Iterator[Finding]:
    """Find layers with several updates to each step of the optimizer."""
    steps = evidence.optimizer_steps
    for layer in evidence.layers.values():
        number = per_step(layer, steps) if steps else 1
        size = effective_batch.of(layer)
        if layer.is_learning and number > 1 and size is not None and round(size, 6) < ENOUGH:
            yield _finding(layer, number, size)


def per_step(layer: LayerEvidence, steps: int) -> int:
    """Count forward passes to a step; 1 where updates and steps are not of one training.

    Args:
        layer: The layer; each forward updates it `updates` times.
        steps: Steps of the optimizer.
    """
    forwards = (layer.num_batches_tracked or 0) / max(layer.updates or 1, 1)
    number = int(forwards // steps)
    # Left over may be the forwards of a step that is not complete yet.
    return number if 1 < number <= MOST and forwards - number * steps < number else 1


def _finding(layer: LayerEvidence, number: int, size: float) -> Finding:
    return Finding(
        rule="unpooled_micro_batches",
        layer=layer.name,
        severity="warning",
        what=f"its running statistics were updated {number} times to a step of the optimizer: by "
        f"micro-batches of {size:.3g} independent values",
        why="Accumulated gradients are those of the large batch, statistics those of the "
        "micro-batches: the running ones follow the latest few, as noisy as those are.",
        remedy="model = bn.convert(model, *inputs, to='batchnorm').model\n"
        "with bn.accumulate(model):  # around the micro-batches of a step: one update by all\n"
        "    ...",
        source="Wu & Johnson 2021 (arXiv:2105.07576), section 2; Hoffer et al. 2017 "
        "(arXiv:1705.08741) on the size that statistics are of",
        numbers={"micro_batches": float(number), "effective_batch": size, "enough": ENOUGH},
    )
