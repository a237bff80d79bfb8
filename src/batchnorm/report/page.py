"""The page: records and templates -> one HTML file that holds everything it needs."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from .. import records
from ..records import Run, StudyResult
from . import downloads, embed, wording
from .cards import card
from .charts import Table
from .charts.figure import table
from .evidence import Evidence, evidence

_MAX_RUNS = 60


def write(result: StudyResult, path: Path) -> None:
    """Write the report of a study to one HTML file; a reader never sees half of it.

    Args:
        result: What the study found.
        path: Where the file goes; an existing file is replaced.
    """
    records.write_text(path, render(result))


def render(result: StudyResult) -> str:
    """Render the report of a study as one HTML page.

    The page needs no network and depends on nothing but its argument: the same result gives the
    same bytes.

    Args:
        result: What the study found.

    Returns:
        The HTML of the page.
    """
    sections = [evidence(claim, result) for claim in result.claims]
    words = [test.headline.verdict for claim in result.claims for test in claim.tests]
    drawn = [figure for section in sections for figure in section.figures if figure.rows]
    return (
        embed.environment()
        .get_template("page.html")
        .render(
            result=result,
            summary=wording.summary(words),
            is_exploratory="exploratory" in words,
            has_default_init=any(run.arm == "default init" for run in result.runs),
            cards=[card(claim) for claim in result.claims],
            sections=sections,
            anchors=_anchors(sections),
            counts=_counts(result),
            runs=_runs_table(result.runs),
            csv_uri=downloads.csv_uri(result.runs),
            results_uri=downloads.results_uri(result),
            figures_json=embed.as_json({figure.id: figure.data() for figure in drawn}),
            style=embed.template_text("style.css"),
            script=embed.template_text("script.js"),
            vega=embed.vega() if drawn else "",
        )
    )


def _counts(result: StudyResult) -> dict[str, str]:
    counts = result.counts
    return {
        "trials planned": wording.integer(counts.planned),
        "trials done": wording.integer(counts.done),
        "of these diverged": wording.integer(counts.diverged),
        "failed": wording.integer(counts.failed),
        "wall time": wording.duration(result.wall_seconds),
        "finished": result.finished,
    }


def _anchors(sections: Sequence[Evidence]) -> list[tuple[str, str]]:
    """List the parts of the page for its table of contents."""
    claims = [(f"claim-{s.number}", f"{s.number}. {s.title}") for s in sections]
    rest = [("settings", "Settings"), ("cost", "Cost"), ("data", "Data")]
    return [("verdicts", "Verdicts"), *claims, *rest]


def _runs_table(runs: Iterable[Run]) -> Table:
    columns = ["stage", "activation", "arm", "learning rate", "seed", "outcome", "steps"]
    columns += ["train loss", "train acc.", "val. acc.", "test loss", "test acc.", "time"]
    return table(columns, map(_run_cells, runs), limit=_MAX_RUNS)


def _run_cells(run: Run) -> list[str]:
    start = [run.stage, run.activation, wording.arm(run.arm), wording.rate(run.lr)]
    outcome = [str(run.seed), run.status, wording.integer(run.steps)]
    train = [wording.number(run.train_loss), wording.percent(run.train_accuracy)]
    test = [wording.percent(run.val_accuracy), wording.number(run.test_loss)]
    return [
        *start,
        *outcome,
        *train,
        *test,
        wording.percent(run.test_accuracy),
        wording.duration(run.seconds),
    ]
