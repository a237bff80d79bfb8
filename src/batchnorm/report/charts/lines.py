"""The commonest chart of the report: every seed as a faint line, their median as a strong one."""

from collections.abc import Sequence

import altair as alt

from . import style
from .figure import Row, Spec


def seeds_and_median(
    rows: Sequence[Row], x: alt.X, y: alt.Y, tooltip: list[alt.Tooltip], average: str = "median"
) -> Spec:
    """Draw one faint line per seed and, per arm, the strong line of their average."""
    if not rows:
        return {}
    color, base = style.color(rows), alt.Chart()
    faint = base.mark_line(strokeWidth=1, opacity=0.35).encode(
        x=x, y=y, color=color, strokeDash=style.dash(rows), detail="seed:N"
    )
    strong = base.mark_line(strokeWidth=2.5).encode(
        x=x, y=averaged(y, average), color=color, strokeDash=style.dash(rows)
    )
    marks = base.mark_point(filled=True, size=34, opacity=0.85).encode(
        x=x, y=averaged(y, average), color=color, shape=style.shape(rows)
    )
    # invisible, and generous: the pointer need not hit a thin line
    hover = base.mark_point(filled=True, size=90, opacity=0).encode(x=x, y=y, tooltip=tooltip)
    return style.side_by_side([faint, strong, marks, hover], rows)


def averaged(y: alt.Y, average: str) -> alt.Y:
    """Put the average of the seeds on an axis that shows single values."""
    copy: alt.Y = y.copy()
    copy["aggregate"] = average
    return copy


def positive(rows: Sequence[Row], field: str) -> tuple[tuple[Row, ...], str]:
    """Keep what a logarithmic axis can show, and say what it cannot.

    Example:
        >>> positive([{"y": 1.0}, {"y": 0.0}], "y")
        (({'y': 1.0},), ' One value is exactly 0, too small for this axis; it is in the data.')
    """
    kept = tuple(row for row in rows if row[field] > 0)
    zeros = len(rows) - len(kept)
    if zeros == 0:
        return kept, ""
    if zeros == 1:
        return kept, " One value is exactly 0, too small for this axis; it is in the data."
    return kept, f" {zeros} values are exactly 0, too small for this axis; they are in the data."
