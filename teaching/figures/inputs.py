"""Inputs as they are, normalized and standardized; a hidden unit; where normalization is put."""

from collections.abc import Iterator

import altair as alt
from sklearn.datasets import load_wine

from batchnorm.report.charts import style
from batchnorm.report.charts.figure import Row

from ..data import Measurement
from . import chart, series
from .drawing import Drawing

X, Y = "proline", "malic_acid"
VIEWS = ("as measured", "normalized (min-max)", "standardized")
PLACES = {
    "linear": "1 what the layer computes",
    "standardized": "2 standardized",
    "affine": "3 times γ, plus β",
    "relu": "4 behind the ReLU",
}
ARMS = {"none": "none", "before": "before the activation", "after": "after it"}
INPUTS = {"raw": "raw inputs", "minmax": "min-max normalized", "standardize": "standardized"}


def drawings(hidden: Measurement, placement: Measurement) -> Iterator[Drawing]:
    """Draw the three views of one data set, one hidden unit, and where normalization is put."""
    yield _views()
    yield _hidden(hidden)
    yield _placement(placement)


def wine() -> list[tuple[str, float, float]]:
    """Two columns of scikit-learn's wine data, with the class of each bottle."""
    data = load_wine()
    x, y = (data.data[:, data.feature_names.index(name)].tolist() for name in (X, Y))
    return [(f"class {target}", *both) for target, *both in zip(data.target, x, y, strict=True)]


def _views() -> Drawing:
    bottles = wine()
    names = [name for name, _, _ in bottles]
    pairs = [[x for _, x, _ in bottles], [y for _, _, y in bottles]]
    scaled = {
        VIEWS[0]: pairs,
        VIEWS[1]: [minmax(column) for column in pairs],
        VIEWS[2]: [standardize(column) for column in pairs],
    }
    rows = [
        {"panel": view, "series": name, "x": round(x, 4), "y": round(y, 4)}
        for view, (xs, ys) in scaled.items()
        for name, x, y in zip(names, xs, ys, strict=True)
    ]
    order = series.order("class 0", "class 1", "class 2")
    domains = ([0, 1800], [-0.05, 1.05], [-3.6, 3.6])
    panels = [
        _panel([row for row in rows if row["panel"] == view], order, domain)
        for view, domain in zip(VIEWS, domains, strict=True)
    ]
    spec = alt.hconcat(*panels, spacing=14).resolve_scale(color="shared", shape="shared").to_dict()
    del spec["config"]
    return Drawing(
        "views",
        "Two properties of 178 wines: as measured, normalized, standardized",
        "As measured, on equal axes, the points lie on a line at the bottom: one property is "
        "hundreds of times larger. Normalized, they fill the square from 0 to 1. Standardized, "
        "they lie around 0, about 1 wide, without a fixed range.",
        {**spec, "config": chart.CONFIG},
    )


def minmax(values: list[float]) -> list[float]:
    """Map the smallest value to 0 and the largest to 1."""
    low, high = min(values), max(values)
    return [(value - low) / (high - low) for value in values]


def standardize(values: list[float]) -> list[float]:
    """Subtract the mean, and divide by the standard deviation (correction 0)."""
    mean = sum(values) / len(values)
    std = (sum((value - mean) ** 2 for value in values) / len(values)) ** 0.5
    return [(value - mean) / std for value in values]


def _panel(rows: list[Row], order: dict[str, int], domain: list[float]) -> alt.Chart:
    scale = alt.Scale(domain=domain, nice=False)
    axis = alt.Axis(tickCount=4)
    points = alt.Chart(alt.Data(values=rows)).mark_point(filled=True, size=22, opacity=0.65)
    return points.encode(
        x=alt.X("x:Q", title="proline", scale=scale, axis=axis),
        y=alt.Y("y:Q", title="malic acid", scale=scale, axis=axis),
        color=series.colors(order),
        shape=series.shapes(order),
    ).properties(
        width=150,
        height=150,
        title=alt.Title(rows[0]["panel"], fontSize=13.5, color="var(--ink)", anchor="middle"),
    )


def _hidden(hidden: Measurement) -> Drawing:
    rows = [
        {"panel": words, "value": row[place]}
        for place, words in PLACES.items()
        for row in hidden.rows
    ]
    bins = alt.Bin(step=0.25, extent=[-4, 5])
    x = alt.X("value:Q", bin=bins, title=None, axis=alt.Axis(values=[-4, -2, 0, 2, 4], format="d"))
    y = alt.Y("count()", title="samples", axis=alt.Axis(tickCount=4))
    bars = alt.Chart().mark_bar(color="var(--arm-batch-norm)", opacity=0.85).encode(x=x, y=y)
    spec = style.side_by_side([bars], rows, height=130)
    spec["resolve"]["scale"] = {"y": "independent"}
    return Drawing(
        "hidden-unit",
        "One hidden unit on its way through batch normalization and ReLU",
        "What the layer computes is off center and wide; standardized it has mean 0 and standard "
        "deviation 1; gamma and beta move it a little; behind the ReLU half of the samples are 0.",
        chart.of_rows(spec, rows, width=230),
    )


def _placement(placement: Measurement) -> Drawing:
    rows = [
        {
            "panel": INPUTS[row["inputs"]],
            "series": ARMS[row["hidden"]],
            "seed": row["seed"],
            "value": 100 * row["accuracy"],
        }
        for row in placement.rows
    ]
    order = {"none": 0, "before the activation": 1, "after it": 2}
    x = alt.X("series:N", sort=list(order), title=None, axis=alt.Axis(labels=False, ticks=False))
    y = alt.Y("value:Q", title="test accuracy (%)", scale=alt.Scale(domain=[91, 99]))
    base, color = alt.Chart(), series.colors(order)
    shape = series.shapes(order)
    points = base.mark_point(filled=True, size=55, opacity=0.75).encode(
        x=x, y=y, color=color, shape=shape
    )
    mean = base.mark_tick(thickness=2.5, size=30).encode(
        x=x, y=alt.Y("mean(value):Q", title="test accuracy (%)"), color=color
    )
    spec = style.side_by_side([points, mean], rows, height=210)
    return Drawing(
        "placement",
        "Test accuracy by where batch normalization is, and by what is done to the inputs",
        "With raw inputs the network without batch normalization is worst and the one with it "
        "before the activation best; with scaled inputs all three are alike.",
        chart.of_rows(spec, rows, columns=3, width=135),
    )
