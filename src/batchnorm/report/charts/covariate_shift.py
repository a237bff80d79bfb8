"""Claim 1: how the inputs of the activations move while the layers below them learn."""

from collections.abc import Sequence

import altair as alt

from ...records import Distribution, Drift, StudyResult
from .. import wording
from . import lines, style
from .figure import Figure, Row, table

_PERCENTILES = (
    "The input of one typical unit's activation over the probe set: the middle line is the "
    "median, the outer ones are the 15th and the 85th percentile. Faint lines are seeds, strong "
    "lines their median. Steady, level bands mean a stable input; bands that wander or widen are "
    "what is called internal covariate shift (after Ioffe & Szegedy 2015, Fig. 1)."
)


def figures(result: StudyResult) -> tuple[Figure, ...]:
    """Draw the percentiles, the drift and the two views of the gradient shift."""
    activations = list(dict.fromkeys(d.activation for d in result.distributions))
    first = [percentiles(result.distributions, a) for a in activations or [""]]
    return (*first, drift(result), gradient_shift(result), gradient_cosine(result))


def percentiles(distributions: Sequence[Distribution], activation: str) -> Figure:
    """Draw the figure of Ioffe & Szegedy 2015, Fig. 1: percentiles of one unit's input by step."""
    names = list(dict.fromkeys(d.activation for d in distributions))
    arms = wording.arms(d.arm for d in distributions)
    found = [d for a in arms for d in distributions if (d.activation, d.arm) == (activation, a)]
    rows = tuple(_percentile_row(d, p) for d in found for p in ("p15", "p50", "p85"))
    order = names.index(activation) if found else 0
    return Figure(
        id=f"percentiles-{order}",
        title=f"What one unit receives during training{f': {activation}' if activation else ''}",
        caption=f"The same for {activation}." if order else _PERCENTILES,
        spec=_percentile_spec(rows),
        rows=rows,
        table=table(
            ["arm", "seed", "step", "15th percentile", "median", "85th percentile"],
            (
                [wording.arm(d.arm), str(d.seed), wording.integer(d.step)]
                + [wording.number(v) for v in (d.p15, d.p50, d.p85)]
                for d in found
            ),
        ),
        missing="No activation inputs were recorded over training.",
    )


def drift(result: StudyResult) -> Figure:
    """Draw how far the inputs move between two probes."""
    return _over_steps(
        result.drifts,
        "drift",
        title="Drift of the activations' inputs",
        axis="drift (initial standard deviations)",
        caption="How far the inputs moved since the previous probe (earth mover's distance, in "
        "standard deviations at initialization). Lower is steadier. Each point of the strong line "
        "is the median of the seeds; the axis is logarithmic.",
    )


def gradient_shift(result: StudyResult) -> Figure:
    """Draw how much a layer's gradient changes when the layers below it are updated."""
    return _over_steps(
        result.drifts,
        "gradient_shift",
        title="Gradient shift",
        axis="relative change of the gradient",
        caption="How much a layer's gradient changes once the layers below it have taken their "
        "step (Santurkar et al. 2018, Definition 2.1, relative to the gradient). 0 means the step "
        "of one layer does not disturb the next. A network that does not learn has none, so read "
        "it together with the training loss in the data.",
    )


def gradient_cosine(result: StudyResult) -> Figure:
    """Draw whether the gradient still points the same way after that update."""
    return _over_steps(
        result.drifts,
        "gradient_cosine",
        title="Direction of the gradient",
        axis="cosine before against after",
        caption="The cosine of the angle between the two gradients of the chart before: 1 means "
        "the gradient still points the same way, 0 that it has nothing to do with the old one.",
    )


def _over_steps(
    drifts: Sequence[Drift], field: str, *, title: str, axis: str, caption: str
) -> Figure:
    every = [_drift_row(d, field) for d in drifts]
    known = [row for row in every if wording.finite(row["value"]) is not None]
    rows, note = lines.positive(known, "value") if field == "drift" else (tuple(known), "")
    y = style.logarithmic(rows, axis) if field == "drift" else style.linear("value", axis)
    tooltip = style.tooltip(rows, arm="arm", seed="seed", step="step", value=title, loss="loss")
    spec = lines.seeds_and_median(rows, style.steps(rows), y, tooltip) if rows else {}
    return Figure(
        id=field.replace("_", "-"),
        title=title,
        caption=caption + note,
        spec=spec,
        rows=rows,
        table=table(["cell", "arm", "seed", "step", axis, "training loss"], map(_cells, known)),
        missing=f"{title}: not measured in this study.",
    )


def _cells(row: Row) -> list[str]:
    start = [row["panel"], row["arm"], str(row["seed"]), wording.integer(row["step"])]
    return [*start, wording.number(row["value"]), wording.number(row["loss"])]


def _drift_row(d: Drift, field: str) -> Row:
    return {
        "panel": style.panel(d.activation, style.condition(d.condition)),
        "key": d.arm,
        "arm": wording.arm(d.arm),
        "seed": d.seed,
        "step": d.step,
        "value": getattr(d, field),
        "loss": d.train_loss,
    }


def _percentile_row(d: Distribution, percentile: str) -> Row:
    return {
        "panel": wording.arm(d.arm),
        "key": d.arm,
        "arm": wording.arm(d.arm),
        "seed": d.seed,
        "step": d.step,
        "percentile": {"p15": "15 %", "p50": "50 %", "p85": "85 %"}[percentile],
        "value": getattr(d, percentile),
    }


def _percentile_spec(rows: Sequence[Row]) -> dict[str, object]:
    if not rows:
        return {}
    base, x, y = alt.Chart(), style.steps(rows), style.linear("value", "input of the activation")
    color = style.color(rows).legend(None)
    width = alt.StrokeDash(
        "percentile:N",
        scale=alt.Scale(domain=["15 %", "50 %", "85 %"], range=[[4, 3], [1, 0], [4, 3]]),
        legend=None,
    )
    faint = base.mark_line(strokeWidth=1, opacity=0.3).encode(
        x=x, y=y, color=color, strokeDash=width, detail=["seed:N", "percentile:N"]
    )
    strong = base.mark_line(strokeWidth=2.5).encode(
        x=x, y=lines.averaged(y, "median"), color=color, strokeDash=width, detail="percentile:N"
    )
    tooltip = style.tooltip(
        rows, arm="arm", seed="seed", step="step", percentile="percentile", value="input"
    )
    hover = base.mark_point(filled=True, size=90, opacity=0).encode(x=x, y=y, tooltip=tooltip)
    return style.side_by_side([faint, strong, hover], rows)
