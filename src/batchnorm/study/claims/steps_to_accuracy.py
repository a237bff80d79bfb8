"""Claim 3b: does a network with batch normalization reach the weaker arm's best accuracy sooner?

Each arm runs at its own tuned learning rate. The target a is the best validation accuracy of the
weaker arm, sustained over two consecutive evaluations; T_a is the first evaluation at which an arm
has reached a and has it still at the next. A run that never does is censored at its budget of
steps: it is counted there and never dropped. Evaluations are spaced geometrically, by 1.2.

Source: Ioffe & Szegedy 2015 (arXiv:1502.03167), Fig. 3: steps to the maximum of the network
without batch normalization.
"""

from itertools import pairwise

from ..design import BATCH_NORM, NONE
from ..evidence import Evidence
from ..outcome import Outcome
from .cell import RATIO, Cell, Definition, log_ratio


def sustained_best(curve: list[tuple[int, float]]) -> float | None:
    """The highest accuracy that two consecutive evaluations both reach.

    Example:
        >>> sustained_best([(1, 0.2), (2, 0.9), (4, 0.6), (8, 0.7)])
        0.6
    """
    pairs = pairwise(curve)
    return max((min(a, b) for (_, a), (_, b) in pairs), default=None)


def steps_to(curve: list[tuple[int, float]], target: float) -> int | None:
    """First step at which the target is reached and still held at the next evaluation.

    Example:
        >>> steps_to([(1, 0.2), (2, 0.9), (4, 0.6), (8, 0.7)], target=0.6)
        2
    """
    for (step, a), (_, b) in pairwise(curve):
        if a >= target and b >= target:
            return step
    return None


def log_speedup(without: Outcome, with_bn: Outcome) -> float | None:
    """ln(T_a without / T_a with) of one seed, censored at the budget."""
    curves = [_curve(without), _curve(with_bn)]
    bests = [sustained_best(curve) for curve in curves]
    if bests[0] is None or bests[1] is None:
        return None
    target = min(bests[0], bests[1])
    budget = [max(run.steps, 1) for run in (without, with_bn)]
    times = [steps_to(curve, target) or limit for curve, limit in zip(curves, budget, strict=True)]
    return log_ratio(times[0], times[1])


def cells(evidence: Evidence) -> list[Cell]:
    """ln(T_a without / T_a with), each arm at its tuned rate, from runs without measurements."""
    return [_cell(evidence, activation) for activation in evidence.design.activations]


DEFINITION = Definition(
    id="3b",
    name="Steps to accuracy",
    quantity="training steps to the weaker arm's best validation accuracy, "
    "without batch normalization divided by with it",
    scale="ratio",
    threshold=RATIO,
    source="Ioffe & Szegedy 2015, Fig. 3",
    cells=cells,
)


def _cell(evidence: Evidence, activation: str) -> Cell:
    by_seed: dict[int, float | None] = {}
    untrained = {NONE: 0, BATCH_NORM: 0}
    for seed in range(evidence.design.seeds):
        without = evidence.tuned_run(activation, NONE, seed)
        with_bn = evidence.tuned_run(activation, BATCH_NORM, seed)
        if without is None or with_bn is None:
            continue
        for arm, run in ((NONE, without), (BATCH_NORM, with_bn)):
            untrained[arm] += not evidence.learned(run)
        # An accuracy at chance is no target: nothing has been learned to be reached sooner.
        trained = evidence.learned(without) and evidence.learned(with_bn)
        by_seed[seed] = log_speedup(without, with_bn) if trained else None
    why = "; ".join(
        f"{words} {untrained[arm]} of {len(by_seed)} runs did not train at the tuned rate"
        for arm, words in ((NONE, "without batch normalization"), (BATCH_NORM, "with it"))
        if untrained[arm]
    )
    return Cell(activation, "each arm at its own learning rate", by_seed, why)


def _curve(run: Outcome) -> list[tuple[int, float]]:
    return [(e.step, e.val_accuracy) for e in run.curve if e.val_accuracy is not None]
