"""The page of a benchmark: records and templates -> one HTML file."""

from pathlib import Path

from .. import records
from ..records import BenchResult
from . import downloads, embed, speeds, wording
from .charts import speed
from .charts.figure import table

TITLE = "How fast is batch normalization here?"

_ANCHORS = (
    ("means", "Averages"),
    ("charts", "Shape by shape"),
    ("times", "Every time"),
    ("how", "How it was measured"),
    ("settings", "Settings"),
    ("data", "Data"),
)
_MAX_ROWS = 10_000


def write_bench(result: BenchResult, path: Path) -> None:
    """Write the page of a benchmark to one HTML file; a reader never sees half of it.

    Args:
        result: What was measured.
        path: Where the file goes; an existing file is replaced.
    """
    records.write_text(path, render_bench(result))


def render_bench(result: BenchResult) -> str:
    """Render a benchmark as one HTML page that needs no network.

    Args:
        result: What was measured.

    Returns:
        The HTML of the page; the same result gives the same bytes.
    """
    figures = speed.figures(result)
    drawn = {figure.id: figure.data() for figure in figures if figure.rows}
    means = table(speeds.MEANS, map(speeds.mean_cells, result.means), _MAX_ROWS)
    return (
        embed.environment()
        .get_template("bench.html")
        .render(
            title=TITLE,
            result=result,
            summary=speeds.summary(result),
            warning=speeds.warning(result),
            where=speeds.where(result),
            overview=speeds.overview(result),
            means=means,
            figures=figures,
            tables=[(t.title, table(t.columns, t.rows, _MAX_ROWS)) for t in speeds.tables(result)],
            reasons=speeds.reasons(result),
            anchors=_ANCHORS,
            settings={**result.settings, "wall time": wording.duration(result.wall_seconds)},
            machine={**result.machine, "used by others": _used(result)},
            results_uri=downloads.results_uri(result),
            figures_json=embed.as_json(drawn),
            style=embed.template_text("style.css"),
            script=embed.template_text("script.js"),
            vega=embed.vega() if drawn else "",
        )
    )


def _used(result: BenchResult) -> str:
    share = wording.finite(result.used_by_others)
    return "unknown" if share is None else f"{wording.percent(share, 0)} of the processors"
