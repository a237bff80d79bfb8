"""The picture of the error: how exact each way to compute a variance is."""

from collections.abc import Iterator

import altair as alt

from ..data import Measurement
from . import series
from .drawing import Drawing

WAYS = (
    "E[x²] − E[x]²",
    "batchnorm, layer",
    "PyTorch, layer",
    "Welford",
    "two passes",
)


def drawings(variance: Measurement) -> Iterator[Drawing]:
    """Draw the error of every way against the ratio of mean to standard deviation."""
    rows = [
        {"panel": "", "series": row["way"], "x": row["ratio"], "y": row["error"]}
        for row in variance.rows
        if row["way"] in WAYS
    ]
    x = alt.X(
        "x:Q",
        scale=alt.Scale(type="log", domain=[1, 1e7]),
        axis=series.powers("mean over standard deviation", 0, 7),
    )
    y = alt.Y(
        "y:Q",
        scale=alt.Scale(type="log", domain=[3e-8, 3e7]),
        axis=series.powers("relative error of the variance", -7, 7, 2),
    )
    names = series.order(*WAYS)
    yield Drawing(
        "variance-error",
        "Relative error of the variance in float32, by how it is computed",
        "The error of E[x²] − E[x]² grows with the square of the ratio and passes 1, which is no "
        "digit right, at a ratio of a few thousand. Welford's and two passes lose digits more "
        "slowly. This library's stays at the last digit. PyTorch's layer is good up to about a "
        "thousand and fails beyond a hundred thousand.",
        series.lines(rows, names, x, y, legend_columns=3, width=500, height=330),
    )
