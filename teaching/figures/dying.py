"""When a ReLU behind batch normalization is off: the bell curve that beta has moved."""

import math
from collections.abc import Iterator

import altair as alt

from batchnorm.report.charts import style

from . import chart
from .drawing import Drawing

BETAS = (0, -2, -4)


def share_on(beta: float, gamma: float = 1.0) -> float:
    """Share of a Gaussian's values for which gamma x + beta is above 0.

    Example:
        >>> round(share_on(0.0), 3), round(share_on(-2.0), 3)
        (0.5, 0.023)
    """
    return (1 + math.erf(beta / abs(gamma) / math.sqrt(2))) / 2


def drawings() -> Iterator[Drawing]:
    """Draw the density of what a ReLU receives, for three betas."""
    rows = [
        {"panel": _panel(beta), "x": x / 10, "y": round(_density(x / 10 - beta), 5)}
        for beta in BETAS
        for x in range(-75, 41)
    ]
    x = alt.X("x:Q", title="what the ReLU receives", axis=alt.Axis(values=[-6, -4, -2, 0, 2, 4]))
    y = alt.Y("y:Q", title=None, axis=None)
    base = alt.Chart()
    off = base.mark_area(color="var(--ink-3)", opacity=0.3).encode(x=x, y=y)
    on = base.mark_area(color="var(--arm-batch-norm)", opacity=0.8).encode(x=x, y=y)
    line = base.mark_rule(color="var(--ink-2)", strokeDash=[3, 3]).encode(x=alt.datum(0))
    layers = [off.transform_filter("datum.x <= 0"), on.transform_filter("datum.x >= 0"), line]
    yield Drawing(
        "dying",
        "Batch normalization centers on beta, not on 0",
        "With beta 0 half of the values switch the ReLU on; with beta −2 two in a hundred; with "
        "beta −4 three in a hundred thousand.",
        chart.of_rows(style.side_by_side(layers, rows, height=110), rows, columns=3, width=172),
    )


def _panel(beta: float) -> str:
    sign = "−" if beta < 0 else ""
    return f"beta = {sign}{abs(beta):g}: on for {_percent(share_on(beta))}"


def _percent(share: float) -> str:
    return f"{100 * share:.2g} %"


def _density(z: float) -> float:
    return math.exp(-z * z / 2) / math.sqrt(2 * math.pi)
