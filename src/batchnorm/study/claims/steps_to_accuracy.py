"""Claim 3b: does a network with batch normalization reach the weaker arm's best accuracy sooner?

Each arm runs at its own tuned learning rate. An arm's best is the validation accuracy that its
runs sustain over two consecutive evaluations, the mean over seeds of the highest; the target a is
the best of the weaker arm. T_a is the first evaluation at which a run has reached a and has it
still at the next. A run that never does is censored: it is counted at its budget of steps, which
understates its time, and never dropped. Evaluations are spaced geometrically, by 1.2.

Source: Ioffe & Szegedy 2015 (arXiv:1502.03167), Fig. 3: steps to the maximum of the network
without batch normalization.
"""

from itertools import pairwise

from ..design import BATCH_NORM, NONE
from ..evidence import BEST, Evidence
from ..outcome import Outcome
from .cell import ARM_WORDS, CONDITION_WORDS, RATIO, Cell, Definition, log_ratio

_ROUNDING = 1e-6


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


def target_accuracy(without: list[Outcome], with_bn: list[Outcome]) -> float | None:
    """The best accuracy of the weaker arm: the mean over its runs of what they sustain."""
    bests = [[sustained_best(_curve(run)) for run in arm] for arm in (without, with_bn)]
    known = [[best for best in arm if best is not None] for arm in bests]
    if not all(known) or [len(arm) for arm in known] != [len(arm) for arm in bests]:
        return None
    # Rounded, so that runs that are all equal reach their own mean.
    return min(round(sum(arm) / len(arm), 6) for arm in known)


def censored_steps(run: Outcome, target: float) -> tuple[int, bool]:
    """Steps to the target, or the budget, and whether the target was reached."""
    step = steps_to(_curve(run), target - _ROUNDING)
    return (step, True) if step is not None else (max(run.steps, 1), False)


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
    runs = {
        seed: (without, with_bn)
        for seed in range(evidence.design.seeds)
        if (without := evidence.tuned_run(activation, NONE, seed)) is not None
        and (with_bn := evidence.tuned_run(activation, BATCH_NORM, seed)) is not None
    }
    # An accuracy at chance is no target: nothing has been learned to be reached sooner.
    trained = {s: p for s, p in runs.items() if all(evidence.learned(run) for run in p)}
    arms = [[pair[i] for pair in trained.values()] for i in (0, 1)]
    target = target_accuracy(*arms) if trained else None
    by_seed: dict[int, float | None] = dict.fromkeys(runs)
    note = ""
    if target is not None:
        times = {s: [censored_steps(run, target) for run in p] for s, p in trained.items()}
        by_seed |= {s: log_ratio(without[0], with_bn[0]) for s, (without, with_bn) in times.items()}
        reached = [sum(pair[i][1] for pair in times.values()) for i in (0, 1)]
        note = (
            f"{100 * target:.1f} % was reached by {reached[0]} of {len(times)} runs without batch "
            f"normalization and by {reached[1]} with it"
        )
    return Cell(activation, CONDITION_WORDS[BEST], by_seed, _why_missing(evidence, runs), note)


def _why_missing(evidence: Evidence, runs: dict[int, tuple[Outcome, Outcome]]) -> str:
    untrained = [sum(not evidence.learned(pair[i]) for pair in runs.values()) for i in (0, 1)]
    return "; ".join(
        f"{words} {count} of {len(runs)} runs did not train at the tuned rate"
        for words, count in zip(ARM_WORDS.values(), untrained, strict=True)
        if count
    )


def _curve(run: Outcome) -> list[tuple[int, float]]:
    return [(e.step, e.val_accuracy) for e in run.curve if e.val_accuracy is not None]
