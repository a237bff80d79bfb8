"""From cells of paired differences to verdicts, by one rule for every claim.

The headline of a test averages its measurable cells seed by seed; Holm's correction goes over the
headlines. Cells are shown with the word their own interval gives, and are not corrected. Where
cells contradict each other the verdict is that it depends, and on what.
"""

import dataclasses
from collections.abc import Sequence

from ..records import Claim, Effect, Test
from .claims import PROMISES
from .claims.cell import Cell, Definition
from .evidence import Evidence
from .statistics import (
    CONTRADICTED,
    DEPENDS,
    EXPLORATORY,
    INCONCLUSIVE,
    NOT_MEASURABLE,
    SUPPORTED,
    compare,
    decision_p,
    holm,
    verdict_after_holm,
)


def judge(evidence: Evidence) -> tuple[Claim, ...]:
    """Judge every claim by what has been measured."""
    cells = {d.id: d.cells(evidence) for promise in PROMISES for d in promise.tests}
    tests = [make_test(d, cells[d.id]) for promise in PROMISES for d in promise.tests]
    adjusted = holm({test.id: p for test in tests if (p := _p(test)) is not None})

    def final(definition: Definition, test: Test) -> Test:
        if definition.id not in adjusted:
            return test
        pairs = zip(cells[definition.id], test.cells, strict=True)
        beside = [effect for cell, effect in pairs if not cell.in_headline]
        needed = definition.also_needs(beside)
        return dataclasses.replace(test, headline=settle(test, adjusted[test.id], needed))

    by_id = {test.id: test for test in tests}
    return tuple(
        Claim(
            promise.number,
            promise.title,
            promise.meaning,
            promise.method,
            promise.limits,
            tuple(final(d, by_id[d.id]) for d in promise.tests),
        )
        for promise in PROMISES
    )


def make_test(definition: Definition, cells: Sequence[Cell]) -> Test:
    """Compare every cell, and average the measurable ones into the headline, before Holm."""
    effects = [_compare(cell, definition.threshold) for cell in cells]
    in_headline = [
        (cell, effect) for cell, effect in zip(cells, effects, strict=True) if cell.in_headline
    ]
    measurable = [cell for cell, effect in in_headline if effect.verdict != NOT_MEASURABLE]
    missing = "; ".join(
        f"{effect.label}: {effect.reason}"
        for _, effect in in_headline
        if effect.verdict == NOT_MEASURABLE
    )
    return Test(
        id=definition.id,
        name=definition.name,
        quantity=definition.quantity,
        scale=definition.scale,
        threshold=definition.threshold,
        source=definition.source,
        headline=compare("headline", _average(measurable), definition.threshold, missing),
        cells=tuple(effects),
        depends_on=depends_on(in_headline),
    )


def _compare(cell: Cell, threshold: float) -> Effect:
    effect = compare(cell.label, cell.by_seed, threshold, cell.why_missing)
    if not cell.note or effect.verdict == NOT_MEASURABLE:
        return effect
    return dataclasses.replace(effect, reason=f"{effect.reason}; {cell.note}")


def settle(test: Test, p_holm: float, still_needed: str | None) -> Effect:
    """Put the final word to a headline."""
    verdict, reason = verdict_after_holm(test.headline, p_holm, test.threshold)
    if verdict != EXPLORATORY and test.depends_on:
        verdict, reason = DEPENDS, f"it depends on {test.depends_on}"
    elif verdict == SUPPORTED and still_needed:
        verdict, reason = INCONCLUSIVE, still_needed
    unmeasured = sum(effect.verdict == NOT_MEASURABLE for effect in test.cells)
    if unmeasured:
        reason += f" ({unmeasured} of {len(test.cells)} cells could not be measured)"
    return dataclasses.replace(test.headline, p_holm=p_holm, verdict=verdict, reason=reason)


def depends_on(effects: Sequence[tuple[Cell, Effect]]) -> str | None:
    """Name the factor that turns the verdict round, where cells support and contradict."""
    by_word = {
        word: [cell for cell, effect in effects if effect.verdict == word]
        for word in (SUPPORTED, CONTRADICTED)
    }
    if not all(by_word.values()):
        return None
    factor = _factor(*by_word.values())
    listed = "; ".join(
        f"{word} for {', '.join(cell.label for cell in cells)}" for word, cells in by_word.items()
    )
    return f"{factor}: {listed}"


def _factor(supporting: list[Cell], contradicting: list[Cell]) -> str:
    """What tells the cells that support from those that contradict."""
    by_activation = {c.activation for c in supporting}.isdisjoint(
        c.activation for c in contradicting
    )
    by_condition = {c.condition for c in supporting}.isdisjoint(c.condition for c in contradicting)
    if by_activation == by_condition:
        return "activation and condition"
    return "the activation" if by_activation else "the condition"


def _average(cells: Sequence[Cell]) -> dict[int, float | None]:
    """Mean over cells of every seed that all of them have."""
    common = set.intersection(*(set(cell.by_seed) for cell in cells)) if cells else set()
    rows = {seed: [cell.by_seed[seed] for cell in cells] for seed in sorted(common)}
    return {
        seed: sum(known) / len(known)
        for seed, row in rows.items()
        if len(known := [value for value in row if value is not None]) == len(row)
    }


def _p(test: Test) -> float | None:
    values = [d for d in test.headline.differences if d is not None]
    return decision_p(values, test.threshold) if test.headline.mean is not None else None
