"""What every claim is made of: cells of paired differences, and the rule about missing ones."""

import dataclasses
import math
from collections.abc import Callable, Mapping

from ...records import Effect
from ..design import BATCH_NORM, NONE
from ..evidence import BEST, MATCHED, Evidence
from ..outcome import Outcome

RATIO = math.log(1.25)
"""Smallest ratio of interest, 1.25 times, as a natural logarithm."""

POINTS = 0.005
"""Smallest difference of interest of accuracies and shares: half a percentage point."""

ARM_WORDS = {NONE: "without batch normalization", BATCH_NORM: "with it"}
"""The two arms that are compared, in the order in which a sentence names them."""

CONDITION_WORDS = {
    BEST: "each arm at its own learning rate",
    MATCHED: "both arms at the same learning rate",
}


Difference = Callable[[Outcome, Outcome], float | None]
"""Of the runs without and with batch normalization of one seed."""


@dataclasses.dataclass(frozen=True)
class Cell:
    """Paired differences of one cell, positive in favor of batch normalization."""

    activation: str
    condition: str
    by_seed: Mapping[int, float | None]
    """None where an arm failed; a seed whose runs have not finished is left out."""
    why_missing: str = ""
    note: str = ""
    """What a reader of the comparison must also know."""
    in_headline: bool = True

    @property
    def label(self) -> str:
        """The cell in words."""
        return f"{self.activation}, {self.condition}"


@dataclasses.dataclass(frozen=True)
class Definition:
    """How one headline test is made."""

    id: str
    name: str
    quantity: str
    scale: str
    threshold: float
    source: str
    cells: Callable[[Evidence], list[Cell]]
    also_needs: Callable[[list[Effect]], str | None] = lambda cells: None
    """Given the cells outside the headline: why a supported headline is still not enough."""


def paired(
    evidence: Evidence,
    activation: str,
    condition: str,
    difference: Difference,
) -> dict[int, float | None]:
    """Apply `difference(without, with)` to the runs of every seed that has finished both."""
    by_seed: dict[int, float | None] = {}
    for seed in range(evidence.design.seeds):
        without = evidence.probe(activation, NONE, condition, seed)
        with_bn = evidence.probe(activation, BATCH_NORM, condition, seed)
        if without is not None and with_bn is not None:
            by_seed[seed] = difference(without, with_bn)
    return by_seed


def where_trained(evidence: Evidence, difference: Difference) -> Difference:
    """Apply a difference only where both arms have learned."""

    def checked(without: Outcome, with_bn: Outcome) -> float | None:
        trained = evidence.learned(without) and evidence.learned(with_bn)
        return difference(without, with_bn) if trained else None

    return checked


def why_untrained(evidence: Evidence, activation: str, condition: str) -> str:
    """Say which arm did not train, and in how many of its runs."""
    parts = []
    for arm, words in ARM_WORDS.items():
        runs = [evidence.probe(activation, arm, condition, s) for s in range(evidence.design.seeds)]
        done = [run for run in runs if run is not None]
        bad = sum(not evidence.learned(run) for run in done)
        if bad:
            parts.append(f"{words} {bad} of {len(done)} runs diverged or did not learn")
    return "; ".join(parts) or "a run of it has failed or cannot be measured"


def cells_by_condition(
    evidence: Evidence,
    difference: Difference,
    why_missing: Callable[[Evidence, str, str], str] = why_untrained,
    prefix: str = "",
) -> list[Cell]:
    """Make a cell of every activation, with each arm at its own rate and both at the same."""
    return [
        Cell(
            activation,
            prefix + CONDITION_WORDS[condition],
            paired(evidence, activation, condition, difference),
            why_missing(evidence, activation, condition),
        )
        for activation in evidence.design.activations
        for condition in (BEST, MATCHED)
    ]


def log_ratio(without: float | None, with_bn: float | None) -> float | None:
    """ln(without / with), or None where one of them is missing or not positive."""
    if without is None or with_bn is None or without <= 0 or with_bn <= 0:
        return None
    return math.log(without / with_bn)


def mean(values: list[float]) -> float | None:
    """The mean, or None of nothing."""
    return math.fsum(values) / len(values) if values else None
