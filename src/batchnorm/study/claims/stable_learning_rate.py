"""Claim 3a: is the largest stable learning rate larger with batch normalization?

A rate is stable for a seed when a short real run at it stays finite, ends with a training loss
(averaged over its last tenth) below the initial one, and has learned: train accuracy above chance
by a margin. The largest one is found by galloping up from the arm's tuned rate in half decades
until a run is not stable, then by geometric bisection to a factor of 10^(1/8). If the tuned rate
itself is not stable in the short run, the search goes down first.

A learning-rate range test is not used: it overstates the largest stable rate by 1.2 to 20 times.

Source: Bjorck et al. 2018 (arXiv:1806.02375), section 3, for the question; bisection over real
short runs is our own definition.
"""

from collections.abc import Callable

from ..design import BATCH_NORM, NONE
from ..evidence import Evidence
from ..outcome import LargestRate, Outcome
from .cell import ARM_WORDS, RATIO, Cell, Definition, log_ratio

EIGHTHS = 8
"""Grid points per decade."""

GALLOP = 4
"""Grid points per jump: half a decade."""

MAX_JUMPS = 6
"""Three decades in either direction."""


def largest_stable_rate(is_stable: Callable[[float], bool], start: float) -> LargestRate:
    """Search the grid start x 10^(i/8) for the largest stable rate.

    Args:
        is_stable: Trains for a short while at a rate. Taken to be true below and false above
            some rate; where it is not, the rate found is one at which it changes.
        start: Where to begin; best a rate known to train.

    Returns:
        The rate, how it is bounded, and how many runs it took.

    Example:
        >>> largest_stable_rate(lambda lr: lr < 1.0, start=0.1)
        LargestRate(lr=0.749894, bound='', runs=5)
    """
    runs = 0

    def stable(i: int) -> bool:
        nonlocal runs
        runs += 1
        return is_stable(_rate(start, i))

    low = next((-j * GALLOP for j in range(MAX_JUMPS + 1) if stable(-j * GALLOP)), None)
    if low is None:
        return LargestRate(None, "below", runs)
    high = low + GALLOP
    if low == 0:
        while stable(high):
            low, high = high, high + GALLOP
            if high > MAX_JUMPS * GALLOP:
                return LargestRate(_rate(start, low), "at least", runs)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if stable(middle) else (low, middle)
    return LargestRate(_rate(start, low), "", runs)


def cells(evidence: Evidence) -> list[Cell]:
    """ln(largest stable rate with / without)."""
    return [_cell(evidence, activation) for activation in evidence.design.activations]


DEFINITION = Definition(
    id="3a",
    name="Largest stable learning rate",
    quantity="largest stable learning rate with batch normalization divided by that without it",
    scale="ratio",
    threshold=RATIO,
    source="Bjorck et al. 2018, section 3; bisection over short real runs",
    cells=cells,
)


def _rate(start: float, i: int) -> float:
    return float(f"{start * 10 ** (i / EIGHTHS):.6g}")


def _cell(evidence: Evidence, activation: str) -> Cell:
    by_seed: dict[int, float | None] = {}
    bad: dict[str, list[Outcome]] = {NONE: [], BATCH_NORM: []}
    for seed in range(evidence.design.seeds):
        without = evidence.stability(activation, NONE, seed)
        with_bn = evidence.stability(activation, BATCH_NORM, seed)
        if without is None or with_bn is None:
            continue
        by_seed[seed] = log_ratio(_found(with_bn), _found(without))
        bad[NONE] += [without] if _found(without) is None else []
        bad[BATCH_NORM] += [with_bn] if _found(with_bn) is None else []
    why = "; ".join(
        f"{words} {_what_is_wrong(bad[arm])} in {len(bad[arm])} of {len(by_seed)} seeds"
        for arm, words in ARM_WORDS.items()
        if bad[arm]
    )
    return Cell(activation, "short runs", by_seed, why)


def _found(outcome: Outcome) -> float | None:
    return outcome.largest_rate.lr if outcome.largest_rate else None


def _what_is_wrong(outcomes: list[Outcome]) -> str:
    raised = any(outcome.largest_rate is None for outcome in outcomes)
    return "the search failed" if raised else "there is no stable rate at all"
