"""The verdicts of a study in the terminal, the same as in its report."""

from pathlib import Path

from rich.console import Console
from rich.table import Table

from ..records import Claim, StudyResult, Test, to_json
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
    table = Table(title="Does batch normalization keep its promises here?", show_lines=False)
    for heading in ("claim", "test", "verdict", "effect", "95 % interval", "seeds", "wins"):
        table.add_column(heading)
    for claim in result.claims:
        for i, test in enumerate(claim.tests):
            table.add_row(*_row(claim, test, first=i == 0))
    return table


def _row(claim: Claim, test: Test, *, first: bool) -> list[str]:
    headline = test.headline
    style = _STYLES.get(headline.verdict, "")
    return [
        f"{claim.number} {claim.title}" if first else "",
        f"{test.id} {test.name}",
        f"[{style}]{headline.verdict}[/]" if style else headline.verdict,
        wording.effect(headline, test.scale),
        wording.interval(headline, test.scale) or wording.ABSENT,
        str(wording.measured_seeds(headline)),
        wording.wins(headline),
    ]


def _counts(result: StudyResult) -> str:
    counts = result.counts
    state = "stopped, PARTIAL" if result.partial else "finished"
    return (
        f"{state}: {counts.done} of {counts.planned} trials, {counts.diverged} diverged, "
        f"{counts.failed} failed, {wording.duration(result.wall_seconds)}"
    )
