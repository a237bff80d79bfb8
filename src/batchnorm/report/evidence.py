"""The evidence behind a card: every test with its cells, and the charts of the claim."""

from dataclasses import dataclass

from ..records import Claim, Effect, StudyResult, Test
from . import wording
from .charts import Figure, figures


@dataclass(frozen=True)
class CellRow:
    """One line of a test's table."""

    label: str
    is_headline: bool
    verdict: wording.Verdict
    effect: str
    interval: str
    seeds: str
    p_sign_flip: str
    p_holm: str
    effect_size: str
    wins: str
    reason: str


@dataclass(frozen=True)
class TestEvidence:
    """One test: what was measured, against what, and what came out."""

    __test__ = False  # for pytest: not a test class

    id: str
    name: str
    quantity: str
    source: str
    threshold: str
    depends_on: str | None
    rows: tuple[CellRow, ...]


@dataclass(frozen=True)
class Evidence:
    """One claim's section."""

    number: int
    title: str
    tests: tuple[TestEvidence, ...]
    figures: tuple[Figure, ...]


def evidence(claim: Claim, result: StudyResult) -> Evidence:
    """Collect what a claim's section shows."""
    tests = tuple(_test(test) for test in claim.tests)
    return Evidence(claim.number, claim.title, tests, figures(claim.number, result))


def _test(test: Test) -> TestEvidence:
    cells = (test.headline, *test.cells)
    return TestEvidence(
        id=test.id,
        name=test.name,
        quantity=test.quantity,
        source=test.source,
        threshold=wording.threshold(test),
        depends_on=test.depends_on,
        rows=tuple(_row(cell, test.scale, cell is test.headline) for cell in cells),
    )


def _row(cell: Effect, scale: str, is_headline: bool) -> CellRow:
    return CellRow(
        label=cell.label,
        is_headline=is_headline,
        verdict=wording.verdict(cell.verdict),
        effect=wording.effect(cell, scale),
        interval=wording.interval(cell, scale) or wording.ABSENT,
        seeds=wording.seeds(cell),
        p_sign_flip=wording.p_value(cell.p_sign_flip),
        p_holm=wording.p_value(cell.p_holm),
        effect_size=wording.number(cell.effect_size, 2),
        wins=wording.wins(cell),
        reason=cell.reason,
    )
