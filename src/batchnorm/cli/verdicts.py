"""The verdicts of a study in the terminal, the same as in its report."""

from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from ..records import StudyResult, Test, to_json
from ..report import wording

_STYLES = {"supported": "green", "contradicted": "red", "depends": "yellow"}


def print_verdicts(result: StudyResult, page: Path, *, as_json: bool) -> None:
    """Print the verdicts to stdout, and where the report lies.

    Args:
        result: The study.
        page: Its report.
        as_json: Print the whole result as JSON instead of the table.
    """
    if as_json:
        print(to_json(result))
        Console(stderr=True).print(f"report: {page}", highlight=False, markup=False, soft_wrap=True)
        return
    console = Console()
    console.print(_table(result))
    console.print(_counts(result), highlight=False, markup=False, soft_wrap=True)
    console.print(f"report: {page}", highlight=False, markup=False, soft_wrap=True)


def _table(result: StudyResult) -> Table:
    table = Table(title="Does batch normalization keep its promises here?", box=SIMPLE_HEAD)
    table.add_column("test", min_width=20)
    for heading in ("verdict", "effect", "95 % interval", "for BN"):
        table.add_column(heading, no_wrap=True)
    for claim in result.claims:
        for test in claim.tests:
            table.add_row(*_row(test), end_section=test is claim.tests[-1])
    return table


def _row(test: Test) -> list[str]:
    headline = test.headline
    style = _STYLES.get(headline.verdict, "")
    return [
        f"{test.id} {test.name}",
        f"[{style}]{headline.verdict}[/]" if style else headline.verdict,
        wording.effect(headline, test.scale),
        wording.interval(headline, test.scale) or wording.ABSENT,
        wording.wins(headline),
    ]


def _counts(result: StudyResult) -> str:
    counts = result.counts
    state = "stopped, PARTIAL" if result.partial else "finished"
    return (
        f"{state}: {counts.done} of {counts.planned} trials, {counts.diverged} diverged, "
        f"{counts.failed} failed, {wording.duration(result.wall_seconds)}"
    )
