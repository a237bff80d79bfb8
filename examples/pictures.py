"""How the examples draw: two kinds of chart, and an SVG file that suits light and dark pages."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import altair as alt
from files import write

BLUE, ORANGE, GREEN, PURPLE = "#0072b2", "#c94f00", "#008560", "#7a3fb0"
INK, _FAINT, _RULE, _PAPER = "#1d2126", "#4a525c", "#d5d9de", "#ffffff"
_DARK = {
    BLUE: "#56b4e9",
    ORANGE: "#e69f00",
    GREEN: "#1fb98b",
    PURPLE: "#c6a0f0",
    INK: "#eceae4",
    _FAINT: "#b9bec4",
    _RULE: "#3d444b",
    _PAPER: "#1d2125",
}
"""What a color is where the reader prefers dark pages."""

Rows = Sequence[Mapping[str, Any]]


def dots(rows: Rows, x: alt.X, groups: str, colors: Mapping[str, str]) -> alt.Chart:
    """Draw a point for each row, in a line for each group and color.

    Args:
        rows: With a value for the axis, the group and "kind".
        x: The axis.
        groups: Name of the column that says which group.
        colors: The color of each kind, in their order from above.
    """
    order = list(dict.fromkeys(row[groups] for row in rows))
    chart = alt.Chart(alt.Data(values=list(rows))).mark_point(filled=True, size=60, opacity=0.75)
    return chart.encode(
        x=x,
        y=alt.Y(f"{groups}:N", title=None, sort=order),
        yOffset=alt.YOffset("kind:N", sort=list(colors)),
        color=kind_color(colors),
    ).properties(width=440, height={"step": 12 * len(colors)})


def curves(rows: Rows, x: alt.X, y: alt.Y, colors: Mapping[str, str]) -> alt.LayerChart:
    """Draw the mean of each kind as a line, and the single seeds faintly.

    Args:
        rows: With a value for both axes, "kind" and "seed".
        x: One axis.
        y: The other.
        colors: The color of each kind.
    """
    base = alt.Chart(alt.Data(values=list(rows))).encode(x=x, color=kind_color(colors))
    faint = base.mark_line(strokeWidth=1, opacity=0.35).encode(y=y, detail="seed:N")
    mean = alt.Y(**{**y.to_dict(), "aggregate": "mean"})
    return (faint + base.mark_line(strokeWidth=2.5, point=True).encode(y=mean)).properties(
        width=440, height=240
    )


def kind_color(colors: Mapping[str, str]) -> alt.Color:
    """Give each kind its color, and name them above the chart."""
    scale = alt.Scale(domain=list(colors), range=list(colors.values()))
    legend = alt.Legend(orient="top", symbolOpacity=1)
    return alt.Color("kind:N", scale=scale, title=None, legend=legend)


def draw(chart: Any, path: Path) -> None:
    """Write a chart as SVG: all of it or nothing, and the same bytes for the same chart."""
    import vl_convert

    svg = vl_convert.vegalite_to_svg(_styled(chart).to_dict())
    dark = "".join(
        f'[fill="{light}"]{{fill:{dark}}}[stroke="{light}"]{{stroke:{dark}}}'
        for light, dark in _DARK.items()
    )
    start = svg.index(">") + 1
    style = f"<style>@media (prefers-color-scheme: dark){{{dark}}}</style>"
    text = svg[:start] + style + svg[start:] + "\n"
    write(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def _styled(chart: Any) -> Any:
    text = {"labelColor": _FAINT, "titleColor": INK, "labelFontSize": 12, "titleFontSize": 12}
    lines = {"gridColor": _RULE, "domainColor": _FAINT, "tickColor": _FAINT}
    return (
        chart.configure(background=_PAPER, padding=12, font="sans-serif")
        .configure_axis(**text, **lines, titleFontWeight="normal", labelLimit=300)
        .configure_legend(**text, labelLimit=300)
        .configure_header(**text)
        .configure_title(color=INK, fontSize=13)
        .configure_view(stroke=None)
    )
