"""The first comparison, and what five usual mistakes cost in it."""

from collections.abc import Iterator

import altair as alt

from batchnorm.report.charts import style

from ..data import Measurement
from . import chart, series
from .drawing import Drawing

ARMS = {"without": "without batch normalization", "with": "with batch normalization"}


def drawings(start: Measurement, mistakes: Measurement) -> Iterator[Drawing]:
    """Draw accuracy by epoch, and with and without each mistake."""
    yield _start(start)
    yield _mistakes(mistakes)


def _start(start: Measurement) -> Drawing:
    rows = [
        {
            "panel": "",
            "series": ARMS[row["arm"]],
            "seed": row["seed"],
            "x": row["epoch"],
            "y": 100 * row["accuracy"],
        }
        for row in start.rows
    ]
    order = series.order(*ARMS.values())
    x = alt.X("x:Q", title="epoch", axis=alt.Axis(tickMinStep=1, format="d"))
    title, scale = "digits read rightly (%)", alt.Scale(domain=[0, 100])
    base, color, shape = alt.Chart(), series.colors(order), series.shapes(order)
    single = base.mark_line(strokeWidth=1, opacity=0.4).encode(
        x=x, y=alt.Y("y:Q", title=title, scale=scale), color=color, detail="seed:N"
    )
    mean = alt.Y("mean(y):Q", title=title, scale=scale)
    line = base.mark_line(strokeWidth=2.6).encode(x=x, y=mean, color=color)
    marks = base.mark_point(filled=True, size=40, opacity=1).encode(
        x=x, y=mean, color=color, shape=shape
    )
    spec = style.side_by_side([single, line, marks], rows, height=240)
    return Drawing(
        "start",
        "Test accuracy by epoch, without and with batch normalization",
        "Thick lines are means over five seeds, thin ones the seeds. With batch normalization "
        "accuracy is above 85 % after two epochs; without it, it rises slowly for all eight.",
        chart.of_rows(spec, rows, width=430),
    )


def _mistakes(mistakes: Measurement) -> Drawing:
    names = {"with": "with the mistake", "without": "without"}
    rows = [
        {"panel": "", "mistake": row["mistake"], "series": words, "value": 100 * row[field]}
        for row in mistakes.rows
        for field, words in names.items()
    ]
    order = series.order(*names.values())
    x = alt.X(
        "value:Q",
        title="digits read rightly (%)",
        scale=alt.Scale(domain=[0, 100]),
        axis=alt.Axis(values=[0, 20, 40, 60, 80, 100]),
    )
    y = alt.Y(
        "mistake:N",
        title=None,
        sort=list(dict.fromkeys(row["mistake"] for row in rows)),
        axis=alt.Axis(labelLimit=330, grid=True),
    )
    points = alt.Chart().mark_point(filled=True, size=60, opacity=0.75)
    spec = style.side_by_side(
        [points.encode(x=x, y=y, color=series.colors(order), shape=series.shapes(order))],
        rows,
        height=190,
    )
    return Drawing(
        "mistakes",
        "Test accuracy with each of five mistakes, and without",
        "One point a seed. Evaluation in training mode, training in evaluation mode, a last batch "
        "of two and a checkpoint without buffers cost tens of points; Keras's momentum costs one.",
        chart.of_rows(spec, rows, width=300),
    )
