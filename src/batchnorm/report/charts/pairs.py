"""Paired dots: the arms side by side, the values of one seed joined by a line."""

from collections.abc import Sequence

import altair as alt

from . import style
from .figure import Row, Spec


def joined(rows: Sequence[Row], y: alt.Y, name: str) -> Spec:
    """Draw a dot per arm and seed, the dots of one seed joined."""
    if not rows:
        return {}
    base, color = alt.Chart(), style.color(rows)
    x = alt.X(
        "arm:N",
        sort=style.arm_names(rows),
        title=None,
        axis=alt.Axis(labels=False, ticks=False, grid=False),
        scale=alt.Scale(padding=0.4),
    )
    joined = base.mark_line(strokeWidth=1, color="var(--ink-3)", opacity=0.6).encode(
        x=x, y=y, detail="seed:N"
    )
    titles = {"arm": "arm", "seed": "seed", "value": name}
    points = base.mark_point(filled=True, size=70, opacity=0.85).encode(
        x=x, y=y, color=color, shape=style.shape(rows), tooltip=style.tooltip(rows, **titles)
    )
    return style.side_by_side([joined, points], rows)
