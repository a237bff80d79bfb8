"""Claim 3: which learning rates a network stands, and how fast it then learns."""

from collections.abc import Sequence

import altair as alt

from ...records import CurvePoint, Run, Stability, StudyResult
from .. import wording
from . import lines, pairs, style
from .figure import Figure, Row, Spec, table

_LANE = 0.08
_BESIDE = 1.09  # crosses of one rate stand side by side
_SHORT = {"none": "without BN", "default init": "default init", "batch norm": "with BN"}


def figures(result: StudyResult) -> tuple[Figure, ...]:
    """Draw accuracy by learning rate, the largest stable rates and the training curves."""
    return accuracy_by_rate(result), stable_rates(result), training_curves(result)


def accuracy_by_rate(result: StudyResult) -> Figure:
    """Draw the test accuracy of every grid run; runs that diverged stand below the axis."""
    runs = [run for run in result.runs if run.stage == "grid" and run.status != "failed"]
    arms = wording.arms({run.arm for run in runs})
    rows = tuple(row for row in (_rate_row(run, arms) for run in runs) if row)
    diverged = sum(row["diverged"] for row in rows)
    return Figure(
        id="accuracy-by-rate",
        title="Accuracy against learning rate",
        caption="Every point is one run, the line is the mean of the seeds that did not "
        "diverge. Look at how far to the right each line stays up: that is how large a learning "
        "rate the network stands. A red cross below the axis is a run that diverged "
        f"({diverged} of {len(rows)} runs); hover over it to see which.",
        spec=_rate_spec(rows, arms) if rows else {},
        rows=rows,
        table=table(
            ["activation", "arm", "learning rate", "seed", "outcome", "test accuracy"],
            map(_rate_cells, rows),
        ),
        missing="No run of the learning rate grid has finished.",
    )


def stable_rates(result: StudyResult) -> Figure:
    """Draw the largest stable learning rate of each arm, seeds joined."""
    rows = tuple(_stable_row(s) for s in result.stability if wording.finite(s.lr) is not None)
    absent = len(result.stability) - len(rows)
    note = (
        f" Not shown: {absent} search{'' if absent == 1 else 'es'} that found no stable rate."
        if absent
        else ""
    )
    return Figure(
        id="stable-rates",
        title="Largest stable learning rate",
        caption="Found by bisection. Each thin line joins the arms of one seed, which share their "
        "data order and initial weights: lines that all rise to the right mean that every seed "
        "gains. The axis is logarithmic." + note,
        spec=pairs.joined(rows, style.logarithmic(rows, "largest stable learning rate"), "rate"),
        rows=rows,
        table=table(
            ["activation", "arm", "seed", "largest stable rate"],
            (_stable_cells(s) for s in result.stability),
        ),
        missing="The largest stable learning rate was not measured in this study.",
    )


def training_curves(result: StudyResult) -> Figure:
    """Draw validation accuracy over training, each arm at its best learning rate."""
    known = [c for c in result.curves if wording.finite(c.val_accuracy) is not None and c.step > 0]
    rows = tuple(_curve_row(c) for c in known)
    tooltip = style.tooltip(
        rows, arm="arm", seed="seed", step="step", value="validation accuracy", lr="learning rate"
    )
    spec: Spec = {}
    if rows:
        last = max(row["step"] for row in rows)
        first = min(row["step"] for row in rows)
        ticks = [m * 10**e for e in range(9) for m in (1, 3) if first <= m * 10**e <= last]
        scale = alt.Scale(type="log", domain=[first, max(last, first + 1)], nice=False)
        x = alt.X(
            "step:Q", scale=scale, title="training step", axis=alt.Axis(values=ticks, format=",d")
        )
        y = style.linear("value", "validation accuracy", format="%")
        spec = lines.seeds_and_median(rows, x, y, tooltip, average="mean")
    return Figure(
        id="training-curves",
        title="Training curves",
        caption="Validation accuracy while training, each arm at its own best learning rate. The "
        "line further to the left learns faster: read across at one height to compare steps. "
        "Faint lines are seeds, the strong line is their mean; the step axis is logarithmic.",
        spec=spec,
        rows=rows,
        table=table(
            ["activation", "arm", "seed", "step", "validation accuracy", "test accuracy"],
            map(_curve_cells, known),
        ),
        missing="No training curve was recorded.",
    )


def _rate_row(run: Run, arms: Sequence[str]) -> Row | None:
    accuracy, diverged = wording.finite(run.test_accuracy), run.status == "diverged"
    if accuracy is None and not diverged:
        return None
    return {
        "panel": run.activation,
        "key": run.arm,
        "arm": wording.arm(run.arm),
        "lr": float(run.lr),
        "beside": run.lr * (_BESIDE ** (run.seed % 6 - 2.5) if diverged else 1.0),
        "seed": run.seed,
        "status": run.status,
        "diverged": diverged,
        "accuracy": None if diverged else accuracy,
        "height": _lane(arms, run.arm) if diverged else accuracy,
    }


def _rate_cells(row: Row) -> list[str]:
    start = [row["panel"], row["arm"], wording.rate(row["lr"]), str(row["seed"])]
    return [*start, row["status"], wording.percent(row["accuracy"])]


def _lane(arms: Sequence[str], arm: str) -> float:
    """Give the crosses of each arm their own line below the axis."""
    return round(-_LANE * (1 + arms.index(arm)), 4)


def _rate_spec(rows: Sequence[Row], arms: Sequence[str]) -> Spec:
    base, color = alt.Chart(), style.color(rows)
    x = alt.X(
        "lr:Q",
        scale=alt.Scale(type="log", nice=False, padding=14),
        title="learning rate",
        axis=alt.Axis(format="~g", values=sorted({row["lr"] for row in rows}), labelOverlap=True),
    )
    beside, y = x.copy(), _rate_axis(rows, arms)
    beside["shorthand"] = "beside:Q"
    ok, diverged = "!datum.diverged", "datum.diverged"
    tooltip = style.tooltip(
        rows, arm="arm", lr="learning rate", seed="seed", status="outcome", accuracy="test accuracy"
    )
    line = base.mark_line(strokeWidth=2.5).encode(
        x=x, y=lines.averaged(y, "mean"), color=color, strokeDash=style.dash(rows)
    )
    points = base.mark_point(filled=True, size=38, opacity=0.6).encode(
        x=x, y=y, color=color, shape=style.shape(rows), tooltip=tooltip
    )
    crosses = base.mark_point(
        shape="M-.8,-.8L.8,.8M-.8,.8L.8,-.8", size=26, strokeWidth=1.6, color="var(--diverged)"
    ).encode(x=beside, y=y, tooltip=tooltip[:-1])
    layers = [line.transform_filter(ok), points.transform_filter(ok)]
    return style.side_by_side([*layers, crosses.transform_filter(diverged)], rows, height=280)


def _rate_axis(rows: Sequence[Row], arms: Sequence[str]) -> alt.Y:
    crossed = {row["key"] for row in rows if row["diverged"]}
    lanes = {_lane(arms, arm): _SHORT.get(arm, arm) for arm in arms if arm in crossed}
    names = " : ".join(f"datum.value == {lane} ? '× {_quoted(n)}'" for lane, n in lanes.items())
    label = f"{names} : format(datum.value, '.0%')" if names else "format(datum.value, '.0%')"
    lowest = min(lanes, default=0.0)
    return alt.Y(
        "height:Q",
        title="test accuracy",
        scale=alt.Scale(domain=[lowest - _LANE / 2 if lanes else 0, 1], nice=False),
        axis=alt.Axis(
            values=[*sorted(lanes), 0, 0.2, 0.4, 0.6, 0.8, 1], labelExpr=label, labelOverlap=False
        ),
    )


def _quoted(text: str) -> str:
    """Make text safe inside the quotes of a Vega expression."""
    return "".join(c if c.isalnum() or c in " -_." else " " for c in text)


def _stable_row(s: Stability) -> Row:
    return {
        "panel": s.activation,
        "key": s.arm,
        "arm": wording.arm(s.arm),
        "seed": s.seed,
        "value": s.lr,
    }


def _stable_cells(s: Stability) -> list[str]:
    is_known = wording.finite(s.lr) is not None
    rate = " ".join(filter(None, [s.bound, wording.rate(s.lr)])) if is_known else "none"
    return [s.activation, wording.arm(s.arm), str(s.seed), rate]


def _curve_row(c: CurvePoint) -> Row:
    return {
        "panel": c.activation,
        "key": c.arm,
        "arm": wording.arm(c.arm),
        "seed": c.seed,
        "step": c.step,
        "value": c.val_accuracy,
        "lr": float(c.lr),
    }


def _curve_cells(c: CurvePoint) -> list[str]:
    start = [c.activation, wording.arm(c.arm), str(c.seed), wording.integer(c.step)]
    return [*start, wording.percent(c.val_accuracy), wording.percent(c.test_accuracy)]
