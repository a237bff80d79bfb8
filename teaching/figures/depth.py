"""How the error signal grows through fifty layers, and how learning tames it."""

import math
from collections.abc import Iterator

import altair as alt

from batchnorm.report import wording
from batchnorm.report.charts.figure import Row

from ..data import Measurement
from . import series
from .drawing import Drawing

RATE = math.sqrt(math.pi / (math.pi - 1))
"""Growth per layer that theory gives batch normalization with ReLU."""

_THEORY = "theory, 1.211 per layer"
_DEPTH = 50
_NAMES = {"relu": "ReLU", "sigmoid": "sigmoid", "tanh": "tanh"}


def drawings(depth: Measurement) -> Iterator[Drawing]:
    """Draw growth by depth, and growth while learning."""
    yield _by_depth(depth)
    yield _while_learning(depth)


def _by_depth(depth: Measurement) -> Drawing:
    rows = [
        _row(row, _NAMES[row["activation"]], _DEPTH - row["layer"])
        for row in depth.rows
        if row["activation"] in _NAMES
    ]
    ends = [{"panel": "ReLU", "series": _THEORY, "x": x, "y": RATE**x} for x in (0, _DEPTH - 1)]
    x = alt.X("x:Q", title="layers passed on the way back", scale=alt.Scale(domain=[0, 50]))
    y = alt.Y(
        "y:Q",
        scale=alt.Scale(type="log", domain=[1e-11, 1e5]),
        axis=series.powers("error signal, last layer = 1", -10, 4, 2),
    )
    names = series.order(*map(wording.arm, ("none", "batch norm")), _THEORY)
    return Drawing(
        "depth",
        "The error signal through fifty layers at initialization",
        "With ReLU it stays level without batch normalization and grows ten thousand times with "
        "it, as theory says; with sigmoid it vanishes without and stays with it; with tanh it is "
        "nearly level without and grows a hundred times with it.",
        series.lines(rows + ends, names, x, y, points=False, columns=3, width=126, height=240),
    )


def _while_learning(depth: Measurement) -> Drawing:
    rows = [
        _row(row, "", row["step"]) for row in depth.rows if row["activation"] == "relu, learning"
    ]
    ticks = sorted({row["x"] for row in rows})
    scale = alt.Scale(type="symlog", constant=1, domain=[0, max(ticks)])
    x = alt.X("x:Q", title="training step", scale=scale, axis=alt.Axis(values=ticks, format="d"))
    y = alt.Y(
        "y:Q",
        scale=alt.Scale(type="log", domain=[0.3, 1e3]),
        axis=series.powers("first layer over last layer", 0, 3),
    )
    names = series.order(*map(wording.arm, ("none", "batch norm")))
    return Drawing(
        "depth-learning",
        "The error signal at the first of thirty ReLU layers over that at the last",
        "With batch normalization it begins several hundred times too large and is level after "
        "thirty steps; without, it is about level all the time.",
        series.lines(rows, names, x, y, width=420, height=210),
    )


def _row(row: Row, panel: str, x: int) -> Row:
    return {"panel": panel, "series": wording.arm(row["arm"]), "x": x, "y": row["error"]}
