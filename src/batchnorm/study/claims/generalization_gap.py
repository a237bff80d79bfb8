"""Claim 5: does batch normalization regularize, with a smaller gap at equal training loss?

The gap is train accuracy minus test accuracy, both in eval mode without augmentation, where the
training loss of a run first reaches the matched value: the lowest that both arms of the pair
reach (linear in the logarithm of the loss between two evaluations). An arm that has not learned
has no gap, which is underfitting and not regularization.

The noise of batch statistics is what is said to regularize. It is isolated by runs that change
nothing but the number of samples per statistic (virtual batch sizes, the gradient's batch fixed):
the claim is supported only if the gap at matched loss also shrinks as that number falls.

Source: Ioffe & Szegedy 2015 (arXiv:1502.03167), section 3.4; Hoffer et al. 2017 (arXiv:1705.08741)
and Luo et al. 2019 (arXiv:1809.00846) for the noise of small batches.
"""

import math
from typing import TypeGuard

from ...records import Effect
from ..design import BATCH_NORM
from ..evidence import Evidence
from ..outcome import Outcome
from ..statistics import SUPPORTED
from ..training import Evaluation
from .cell import POINTS, Cell, Definition, cells_by_condition, where_trained

SLOPE = "slope over virtual batch sizes"


def lowest_loss(outcome: Outcome) -> float | None:
    """The lowest finite training loss that a run's evaluations reached."""
    return min((e.train_loss for e in outcome.curve if _is_finite(e.train_loss)), default=None)


def matched_loss(outcomes: list[Outcome]) -> float | None:
    """The lowest training loss that all of some runs reached."""
    lowest = [lowest_loss(outcome) for outcome in outcomes]
    reached = [loss for loss in lowest if loss is not None]
    return max(reached) if reached and len(reached) == len(outcomes) else None


def gap_at(outcome: Outcome, loss: float) -> float | None:
    """Train minus test accuracy where the training loss first falls to `loss`."""
    before: Evaluation | None = None
    for now in outcome.curve:
        if not _is_finite(now.train_loss):  # None too: the ledger writes infinity as null
            before = None
            continue
        if now.train_loss <= loss:
            return _interpolate(before, now, loss)
        before = now
    return None


def gap_difference(without: Outcome, with_bn: Outcome) -> float | None:
    """Gap without minus gap with, at the loss that both reach."""
    loss = matched_loss([without, with_bn])
    if loss is None:
        return None
    a, b = gap_at(without, loss), gap_at(with_bn, loss)
    return None if a is None or b is None else a - b


def slope_over_sizes(runs: dict[int, Outcome]) -> float | None:
    """Change of the gap, at the loss all reach, from the smallest to the largest size.

    Positive: the gap shrinks as the samples per statistic fall. The least-squares slope of the
    gap on the logarithm of the size, times the range of that logarithm.

    Args:
        runs: One seed's run for each number of samples per statistic.

    Returns:
        The change as a fraction, or None with fewer than three sizes or where one has no gap.
    """
    loss = matched_loss(list(runs.values()))
    if loss is None or len(runs) < 3:
        return None
    points = [(math.log2(size), gap_at(run, loss)) for size, run in sorted(runs.items())]
    known = [(x, gap) for x, gap in points if gap is not None]
    if len(known) < len(points):
        return None
    center = sum(x for x, _ in known) / len(known)
    slope = sum((x - center) * g for x, g in known) / sum((x - center) ** 2 for x, _ in known)
    return slope * (known[-1][0] - known[0][0])


def cells(evidence: Evidence) -> list[Cell]:
    """Gap differences at matched loss, and beside them the slope over virtual batch sizes."""
    found = cells_by_condition(
        evidence, where_trained(evidence, gap_difference), prefix="at matched training loss, "
    )
    return found + [_slope_cell(evidence, activation) for activation in evidence.design.activations]


def _also_needs(effects: list[Effect]) -> str | None:
    """Why a smaller gap alone does not support the claim: the noise must be seen to cause it."""
    if effects and all(effect.verdict == SUPPORTED for effect in effects):
        return None
    return (
        "the gap is smaller, but it is not shown to shrink with the samples per statistic, "
        "as it would if the noise of batch statistics were the cause"
    )


DEFINITION = Definition(
    id="5",
    name="Generalization gap",
    quantity="train minus test accuracy at matched training loss, "
    "without batch normalization minus with it",
    scale="points",
    threshold=POINTS,
    source="Ioffe & Szegedy 2015, section 3.4; Hoffer et al. 2017; Luo et al. 2019",
    cells=cells,
    also_needs=_also_needs,
)


def _slope_cell(evidence: Evidence, activation: str) -> Cell:
    by_seed: dict[int, float | None] = {}
    sizes = (*evidence.design.virtual_batch_sizes, evidence.design.problem.batch_size)
    for seed in range(evidence.design.seeds):
        runs = {size: evidence.ghost(activation, size, seed) for size in sizes}
        done = {size: run for size, run in runs.items() if run is not None}
        if len(done) == len(sizes):
            learned = all(evidence.learned(run) for run in done.values())
            by_seed[seed] = slope_over_sizes(done) if learned else None
    why = (
        "a run with virtual batches diverged or did not learn"
        if len(sizes) >= 3
        else f"a batch of {sizes[-1]} leaves fewer than three sizes to compare"
    )
    condition = f"{SLOPE} {sizes[0]} to {sizes[-1]} ({BATCH_NORM} alone)"
    return Cell(activation, condition, by_seed, why, in_headline=False)


def _interpolate(before: Evaluation | None, now: Evaluation, loss: float) -> float:
    gap = _gap(now)
    if before is None or before.train_loss is None or now.train_loss is None:
        return gap
    high, low = math.log(before.train_loss), math.log(max(now.train_loss, 1e-30))
    share = (high - math.log(max(loss, 1e-30))) / (high - low) if high > low else 1.0
    return _gap(before) + min(share, 1.0) * (gap - _gap(before))


def _is_finite(loss: float | None) -> TypeGuard[float]:
    return loss is not None and math.isfinite(loss)


def _gap(e: Evaluation) -> float:
    return (e.train_accuracy or 0.0) - (e.test_accuracy or 0.0)
