"""What our own charts share: named series with a color, a dash and a mark each, in panels."""

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt

from batchnorm.report.charts import style
from batchnorm.report.charts.figure import Row, Spec

from . import chart

PALETTE = ("none", "batch-norm", "default-init", "kernel", "compile")
DASHES = ([7, 4], [1, 0], [2, 3], [9, 3, 2, 3], [4, 2])
SHAPES = ("triangle-up", "circle", "square", "diamond", "cross")


def order(*names: str) -> dict[str, int]:
    """Give series the colors of the report in this order: without BN, with BN, a third, ..."""
    return {name: i for i, name in enumerate(names)}


def lines(
    rows: Sequence[Row],
    series: Mapping[str, int],
    x: alt.X,
    y: alt.Y,
    *,
    points: bool = True,
    legend_columns: int = 0,
    height: int = 230,
    **size: Any,
) -> Spec:
    """Draw one line per series and panel; rows have "panel" and "series"."""
    mark = {} if points else {"symbolType": "stroke", "symbolStrokeWidth": 3, "symbolSize": 320}
    legend = alt.Legend(columns=legend_columns, symbolDash=[1, 0], **mark)
    color, base = colors(series, legend), alt.Chart()
    dash = alt.StrokeDash("series:N", title=None, legend=legend, scale=_scale(series, DASHES))
    drawn = [base.mark_line(strokeWidth=2.3).encode(x=x, y=y, color=color, strokeDash=dash)]
    if points:
        marks = base.mark_point(filled=True, size=36, opacity=0.9)
        drawn.append(marks.encode(x=x, y=y, color=color, shape=shapes(series, legend)))
    spec = style.side_by_side(drawn, rows, height=height)
    return chart.of_rows(spec, rows, **size)


def powers(title: str, low: int, high: int, step: int = 1) -> alt.Axis:
    """Label a logarithmic axis with powers of ten."""
    ticks = [float(f"1e{e}") for e in range(low, high + 1, step)]
    return alt.Axis(title=title, values=ticks, labelExpr=style._POWER)


def colors(series: Mapping[str, int], legend: alt.Legend | None = None) -> alt.Color:
    """Give each series its color."""
    names = [f"var(--arm-{name})" for name in PALETTE]
    scale = _scale(series, names)
    return alt.Color("series:N", title=None, legend=legend or alt.Legend(), scale=scale)


def shapes(series: Mapping[str, int], legend: alt.Legend | None = None) -> alt.Shape:
    """Give each series its mark."""
    scale = _scale(series, SHAPES)
    return alt.Shape("series:N", title=None, legend=legend or alt.Legend(), scale=scale)


def _scale(series: Mapping[str, int], values: Sequence[Any]) -> alt.Scale:
    return alt.Scale(domain=list(series), range=[values[i] for i in series.values()])
