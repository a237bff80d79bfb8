"""Claim 2: how the signal and the error signal change from layer to layer."""

from collections.abc import Sequence

import altair as alt

from ...records import Profile, StudyResult
from .. import wording
from . import lines, style
from .figure import Figure, Row, table


def figures(result: StudyResult) -> tuple[Figure, ...]:
    """Draw the error signal and the activations' inputs by depth."""
    return error_by_depth(result), input_by_depth(result)


def error_by_depth(result: StudyResult) -> Figure:
    """Draw the root mean square of the error signal that reaches each layer."""
    return _by_depth(
        result.profiles,
        "error_rms",
        title="The error signal on its way back",
        axis="rms of the error signal",
        caption="Training sends the error from the last layer (right) back to the first (left). "
        "A level line means every layer learns from a signal of the same size. A line that falls "
        "towards the left is a vanishing gradient, one that rises towards the left an exploding "
        "one. The axis is logarithmic: equal distances are equal factors.",
    )


def input_by_depth(result: StudyResult) -> Figure:
    """Draw the root mean square of what each activation receives."""
    return _by_depth(
        result.profiles,
        "input_rms",
        title="The signal on its way forward",
        axis="rms of the activation's input",
        caption="The size of what each activation receives, from the first layer (left) to the "
        "last (right). With batch normalization it is held near 1; without it, it may shrink or "
        "grow with every layer, which depends on the initialization.",
    )


def _by_depth(
    profiles: Sequence[Profile], field: str, *, title: str, axis: str, caption: str
) -> Figure:
    known = [
        row
        for row in (_row(p, field) for p in profiles)
        if wording.finite(row["value"]) is not None
    ]
    rows, note = lines.positive(known, "value")
    deepest = max((row["layer"] for row in rows), default=1)
    ticks = [n for n in range(1, deepest + 1) if deepest <= 12 or n == 1 or n % 5 == 0]
    x = alt.X(
        "layer:Q",
        title="layer (1 is nearest to the input)",
        scale=alt.Scale(domain=[1, max(deepest, 2)], nice=False),
        axis=alt.Axis(values=ticks, format="d", grid=False),
    )
    y = style.logarithmic(rows, axis)
    tooltip = style.tooltip(rows, arm="arm", seed="seed", layer="layer", value=axis)
    return Figure(
        id=field.replace("_", "-"),
        title=title,
        caption=caption + note,
        spec=lines.seeds_and_median(rows, x, y, tooltip),
        rows=rows,
        table=table(["cell", "arm", "seed", "layer", axis], map(_cells, known)),
        missing=f"{title}: not measured in this study.",
    )


def _cells(row: Row) -> list[str]:
    start = [row["panel"], row["arm"], str(row["seed"]), str(row["layer"])]
    return [*start, wording.number(row["value"])]


def _row(p: Profile, field: str) -> Row:
    when = "at initialization" if p.step == 0 else f"after {wording.integer(p.step)} steps"
    return {
        "panel": style.panel(p.activation, when),
        "key": p.arm,
        "arm": wording.arm(p.arm),
        "seed": p.seed,
        "layer": p.layer,
        "value": getattr(p, field),
    }
