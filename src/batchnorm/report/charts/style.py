"""What every chart shares: colors, dashes and marks of the arms, axes, panels side by side.

Colors are custom properties of the page's style sheet, so one drawing serves both color schemes
and print.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import altair as alt

from .. import wording
from .figure import Row, Spec

HEIGHT = 230
_COLORS = {
    "none": "var(--arm-none)",
    "default init": "var(--arm-default-init)",
    "batch norm": "var(--arm-batch-norm)",
}
_DASHES = {"none": [7, 4], "default init": [2, 3], "batch norm": [1, 0]}
_SHAPES = {"none": "triangle-up", "default init": "square", "batch norm": "circle"}


def arm_names(rows: Iterable[Row]) -> list[str]:
    """Name the arms among the rows, in the order of display."""
    return [wording.arm(a) for a in wording.arms({row["key"] for row in rows})]


def color(rows: Iterable[Row]) -> alt.Color:
    """Give each arm its color."""
    return alt.Color("arm:N", scale=_scale(rows, _COLORS, "var(--ink-2)"), title=None)


def dash(rows: Iterable[Row]) -> alt.StrokeDash:
    """Give each arm its dash, which the outline of its mark in the legend does not take over."""
    legend = alt.Legend(symbolDash=[1, 0])
    scale = _scale(rows, _DASHES, [4, 2])
    return alt.StrokeDash("arm:N", scale=scale, title=None, legend=legend)


def shape(rows: Iterable[Row]) -> alt.Shape:
    """Give each arm its mark."""
    return alt.Shape("arm:N", scale=_scale(rows, _SHAPES, "diamond"), title=None)


def steps(rows: Iterable[Row], title: str = "training step") -> alt.X:
    """Draw steps on an axis that shows the first ones as well as the last ones, 0 included."""
    last = max((row["step"] for row in rows), default=1)
    ticks = [0] + [m * 10**e for e in range(9) for m in (1, 3) if m * 10**e <= max(last, 1)]
    scale = alt.Scale(type="symlog", constant=1, domain=[0, max(last, 1)])
    return alt.X("step:Q", scale=scale, title=title, axis=alt.Axis(values=ticks, format=",d"))


def logarithmic(rows: Sequence[Row], title: str) -> alt.Y:
    """Draw the positive values of the rows on a logarithmic axis."""
    values = [row["value"] for row in rows] or [1.0]
    low, high = min(values), max(values)
    scale = alt.Scale(type="log", nice=False, domain=[low / 1.3, high * 1.3])
    ticks = _log_ticks(low / 1.3, high * 1.3)
    axis = alt.Axis(values=ticks, labelExpr=_label(ticks), labelOverlap=True)
    return alt.Y("value:Q", scale=scale, title=title, axis=axis)


def across(y: alt.Y, field: str = "value") -> alt.X:
    """Lay an axis made by `logarithmic` on its side, for another column if need be."""
    axis: Row = y.to_dict()  # type: ignore[assignment]
    x: alt.X = alt.X.from_dict({**axis, "field": field})
    return x


def linear(field: str, title: str, **axis: Any) -> alt.Y:
    """Draw a quantity on an axis that need not start at zero."""
    scale = alt.Scale(zero=False, nice=True)
    return alt.Y(f"{field}:Q", scale=scale, title=title, axis=alt.Axis(tickCount=6, **axis))


def tooltip(rows: Sequence[Row], **titles: str) -> list[alt.Tooltip]:
    """Show these columns, under these titles, when the pointer rests on a mark."""
    numeric = {name for name in titles if rows and isinstance(rows[0][name], float)}
    return [
        alt.Tooltip(f"{name}:Q", title=title, format=".4~g")
        if name in numeric
        else alt.Tooltip(f"{name}:N", title=title)
        for name, title in titles.items()
    ]


def side_by_side(layers: Sequence[alt.Chart], rows: Sequence[Row], height: int = HEIGHT) -> Spec:
    """Draw the same layers once per panel; the script of the page chooses width and columns."""
    panels = list(dict.fromkeys(row["panel"] for row in rows))
    facet = alt.Facet("panel:N", title=None, sort=panels)
    chart = (
        alt.layer(*layers)
        .properties(width=320, height=height)
        .facet(data=alt.NamedData(name="rows"), facet=facet, columns=3)
        .resolve_axis(x="independent", y="independent")
    )
    spec: Spec = chart.to_dict()
    del spec["$schema"], spec["config"]  # an address, and sizes the script sets
    return spec


def panel(*parts: str | None) -> str:
    """Name a panel after what its rows have in common."""
    return ", ".join(part for part in parts if part)


def condition(name: str) -> str:
    """Say a condition in words."""
    words = {"best": "each arm at its best learning rate", "matched": "same learning rate"}
    return words.get(name, name)


def _log_ticks(low: float, high: float) -> list[float]:
    """Choose at most seven ticks: powers of ten, and their parts where there are few powers."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    parts = _parts(high / low)
    step = 1 if len(parts) > 1 else math.ceil((last - first) / 6)
    ticks = [float(f"{m}e{e}") for e in range(first, last + 1, step) for m in parts]
    return [tick for tick in ticks if low <= tick <= high]


def _parts(ratio: float) -> tuple[float, ...]:
    if ratio < 12:
        return (1, 1.5, 2, 3, 5, 7)
    if ratio < 100:
        return (1, 2, 5)
    return (1, 3) if ratio < 1000 else (1,)


def _label(ticks: Sequence[float]) -> str:
    """Write the labels of a logarithmic axis in Vega's language."""
    if all(1e-4 < tick < 1e5 for tick in ticks):
        return "format(datum.value, ',~g')"
    is_power = all(f"{tick:.0e}".startswith("1e") for tick in ticks)
    return _POWER if is_power else "replace(format(datum.value, '.0e'), '−', '-')"


def _power_expression() -> str:
    """Write the label of a power of ten in Vega's language, with a raised exponent."""
    exponent = "toString(round(log(datum.value) / LN10))"
    for digit, raised in zip("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹", strict=True):
        exponent = f"replace({exponent}, regexp('{digit}', 'g'), '{raised}')"
    return f"'10' + {exponent}"


_POWER = _power_expression()


def _scale(rows: Iterable[Row], by_arm: dict[str, Any], other: Any) -> alt.Scale:
    arms = wording.arms({row["key"] for row in rows})
    return alt.Scale(
        domain=[wording.arm(a) for a in arms], range=[by_arm.get(a, other) for a in arms]
    )
