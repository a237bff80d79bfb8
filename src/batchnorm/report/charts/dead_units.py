"""Claim 4: units that no input of the probe set switches on any more."""

from collections.abc import Sequence

import altair as alt

from ...records import DeadUnits, StudyResult
from .. import wording
from . import style
from .figure import Figure, Row, Spec, table

_BORN, _DIED = "dead at the start", "died in training"


def figures(result: StudyResult) -> tuple[Figure, ...]:
    """Draw the dead units and the saturated activations."""
    return dead_units(result), saturation(result)


def dead_units(result: StudyResult) -> Figure:
    """Draw, per arm and seed, which share of the units was born dead and which died."""
    counted = [d for d in result.dead_units if d.units > 0]
    rows = tuple(
        row for d in counted for row in (_row(d, _BORN, d.born_dead), _row(d, _DIED, d.died))
    )
    return Figure(
        id="dead-units",
        title="Dead units",
        caption="Each point is one seed, the bar the mean of its arm. On the left the units that "
        "were never switched on even before training, on the right those that were alive and died. "
        "A sigmoid is never exactly off, so there this is expected to be 0.",
        spec=_dots(rows, "kind:N", "share of units", [_BORN, _DIED]) if rows else {},
        rows=rows,
        table=table(
            ["cell", "arm", "seed", "units", "dead at the start", "died", "revived"],
            (
                [_panel(d), wording.arm(d.arm), str(d.seed)]
                + [wording.integer(n) for n in (d.units, d.born_dead, d.died, d.revived)]
                for d in counted
            ),
        ),
        missing="Dead units were not counted in this study.",
    )


def saturation(result: StudyResult) -> Figure:
    """Draw the share of activations in the flat part of their function."""
    known = [d for d in result.dead_units if wording.finite(d.saturated) is not None]
    rows = tuple(_row(d, "at the end of training", d.saturated or 0.0, of=1) for d in known)
    return Figure(
        id="saturation",
        title="Saturated activations",
        caption="The share of activations on the flat part of their function at the end of "
        "training, where the slope is below 1 % of the steepest. They pass on almost no gradient: "
        "for a sigmoid this is what being dead is for a ReLU.",
        spec=_dots(rows, "kind:N", "share of activations", ["at the end of training"])
        if rows
        else {},
        rows=rows,
        table=table(
            ["cell", "arm", "seed", "saturated"],
            (
                [_panel(d), wording.arm(d.arm), str(d.seed), wording.percent(d.saturated)]
                for d in known
            ),
        ),
        missing="Saturation was not measured in this study.",
    )


def _dots(rows: Sequence[Row], x_field: str, title: str, order: list[str]) -> Spec:
    base = alt.Chart()
    axis = alt.Axis(labelAngle=0, ticks=False, grid=False, labelPadding=10)
    x = alt.X(x_field, title=None, sort=order, axis=axis)
    y = alt.Y(
        "share:Q",
        title=title,
        scale=alt.Scale(domainMin=0, nice=True),
        axis=alt.Axis(format=".0%" if _largest(rows) > 0.05 else ".1%", tickCount=5),
    )
    beside = alt.XOffset("arm:N", sort=style.arm_names(rows))
    color = style.color(rows)
    names = {"arm": "arm", "seed": "seed", "kind": "which", "count": "units", "share": "share"}
    points = base.mark_point(filled=True, size=55, opacity=0.75).encode(
        x=x,
        y=y,
        xOffset=beside,
        color=color,
        shape=style.shape(rows),
        tooltip=style.tooltip(rows, **names),
    )
    mean = base.mark_tick(thickness=2.5, size=26).encode(
        x=x, y=alt.Y("mean(share):Q", title=title), xOffset=beside, color=color
    )
    return style.side_by_side([points, mean], rows)


def _largest(rows: Sequence[Row]) -> float:
    return max((float(row["share"]) for row in rows), default=0.0)


def _panel(d: DeadUnits) -> str:
    return style.panel(d.activation, style.condition(d.condition))


def _row(d: DeadUnits, kind: str, count: float, of: int | None = None) -> Row:
    return {
        "panel": _panel(d),
        "key": d.arm,
        "arm": wording.arm(d.arm),
        "seed": d.seed,
        "kind": kind,
        "count": count,
        "share": count / (of or d.units),
    }
