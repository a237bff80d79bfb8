"""The noise of a batch's statistics, and how running statistics follow."""

import math
from collections.abc import Iterator

import altair as alt

from ..data import Measurement
from . import series
from .drawing import Drawing


def drawings(noise: Measurement, running: Measurement) -> Iterator[Drawing]:
    """Draw the noise by batch size, and running means by momentum."""
    yield _noise(noise)
    yield _running(running)


def _noise(noise: Measurement) -> Drawing:
    names = {"mean": "of the mean", "std": "of the standard deviation"}
    rows = [
        {"panel": "", "series": names[field], "x": row["size"], "y": row[field]}
        for field in names
        for row in noise.rows
    ]
    theory = [
        {"panel": "", "series": "1/√B and 1/√(2B)", "x": b, "y": 1 / math.sqrt(k * b), "part": k}
        for k in (1, 2)
        for b in (2, 256)
    ]
    sizes = [row["size"] for row in noise.rows]
    x = alt.X(
        "x:Q",
        title="samples per statistic, B",
        scale=alt.Scale(type="log", domain=[2, 256]),
        axis=alt.Axis(values=sizes, format="d"),
    )
    ticks = [0.05, 0.1, 0.2, 0.5]
    y = alt.Y(
        "y:Q",
        title="spread, in standard deviations",
        scale=alt.Scale(type="log", domain=[0.04, 0.8]),
        axis=alt.Axis(values=ticks, format="~g"),
    )
    order = series.order("of the mean", "of the standard deviation", "1/√B and 1/√(2B)")
    spec = series.lines(rows + theory, order, x, y, width=420, height=230)
    for layer in spec["spec"]["layer"]:
        layer["encoding"]["detail"] = {"field": "part", "type": "nominal"}
    spec["spec"]["layer"][1]["transform"] = [{"filter": "!datum.part"}]
    return Drawing(
        "batch-noise",
        "How much the statistics of a batch vary from batch to batch",
        "The spread of the mean falls as one over the square root of the batch size, that of the "
        "standard deviation as one over the square root of twice the batch size.",
        spec,
    )


def _running(running: Measurement) -> Drawing:
    rows = [
        {
            "panel": {"mean": "running_mean", "var": "running_var"}[field],
            "series": f"momentum {row['momentum']:g}",
            "x": row["step"],
            "y": row[field],
        }
        for field in ("mean", "var")
        for row in running.rows
    ]
    truth = [
        {"panel": panel, "series": "the population", "x": step, "y": value}
        for panel, value in (("running_mean", 2.0), ("running_var", 9.0))
        for step in (0, 300)
    ]
    x = alt.X("x:Q", title="batches seen", axis=alt.Axis(tickCount=4))
    y = alt.Y("y:Q", title=None, scale=alt.Scale(zero=True), axis=alt.Axis(tickCount=5))
    order = series.order("momentum 0.1", "momentum 0.01", "the population")
    return Drawing(
        "running-statistics",
        "Running statistics on their way to the population's",
        "With momentum 0.1 they arrive after some thirty batches and go on trembling; with 0.01 "
        "they take three hundred and are smooth.",
        series.lines(rows + truth, order, x, y, points=False, height=190),
    )
