"""Claim 5: how much better a network does on its training data than on new data."""

from collections.abc import Sequence

import altair as alt

from ...records import Gap, StudyResult
from .. import wording
from . import lines, pairs, style
from .figure import Figure, Row, Spec, Table, table

_GHOST = "virtual batch"
_WHOLE = "whole batch"


def figures(result: StudyResult) -> tuple[Figure, ...]:
    """Draw the gap per seed, and the gap against the virtual batch size."""
    return gap_by_seed(result), gap_by_virtual_batch(result)


def gap_by_seed(result: StudyResult) -> Figure:
    """Draw the generalization gap at matched training loss, seeds joined."""
    gaps = [gap for gap in result.gaps if gap.condition != _GHOST]
    rows = _rows(gaps)
    y = style.linear("value", "train minus test accuracy (points)")
    return Figure(
        id="gap-by-seed",
        title="Generalization gap, seed by seed",
        caption="Training accuracy minus test accuracy, where the training loss first reaches the "
        "same value in all arms, so that a network that merely learns less cannot win. Lower is "
        "better. Each thin line joins the arms of one seed." + _unmeasured(gaps),
        spec=pairs.joined(rows, y, "gap (points)"),
        rows=rows,
        table=_table(gaps, "activation and condition"),
        missing="The generalization gap was not measured in this study.",
    )


def gap_by_virtual_batch(result: StudyResult) -> Figure:
    """Draw the gap against the number of samples that share one mean and variance."""
    gaps = [gap for gap in result.gaps if gap.condition == _GHOST]
    rows = _rows(gaps)
    return Figure(
        id="gap-by-virtual-batch",
        title="Generalization gap against virtual batch size",
        caption="The same network, with means and variances taken over smaller and smaller parts "
        "of the batch: fewer samples, noisier statistics (their noise is about 1/√size). If the "
        "noise of batch statistics is what regularizes, the gap shrinks towards the left."
        + _unmeasured(gaps),
        spec=_sizes_spec(rows, _sizes(gaps)) if rows else {},
        rows=rows,
        table=_table(gaps, "activation"),
        missing="No run with virtual batches was carried out in this study.",
    )


def _sizes_spec(rows: Sequence[Row], sizes: list[str]) -> Spec:
    axis = alt.Axis(labelAngle=0, grid=False)
    x = alt.X("size:N", title="samples per mean and variance", sort=sizes, axis=axis)
    y = style.linear("value", "train minus test accuracy (points)")
    tooltip = style.tooltip(rows, arm="arm", size="samples", seed="seed", value="gap (points)")
    return lines.seeds_and_median(rows, x, y, tooltip, average="mean")


def _sizes(gaps: Sequence[Gap]) -> list[str]:
    numbers = {gap.virtual_batch_size for gap in gaps}
    return [str(n) for n in sorted(n for n in numbers if n)] + [_WHOLE] * (None in numbers)


def _rows(gaps: Sequence[Gap]) -> tuple[Row, ...]:
    return tuple(_row(gap) for gap in gaps if wording.finite(gap.gap) is not None)


def _row(gap: Gap) -> Row:
    is_ghost = gap.condition == _GHOST
    return {
        "panel": style.panel(gap.activation, None if is_ghost else style.condition(gap.condition)),
        "key": gap.arm,
        "arm": wording.arm(gap.arm),
        "seed": gap.seed,
        "size": str(gap.virtual_batch_size or _WHOLE),
        "value": 100.0 * (gap.gap or 0.0),
    }


def _unmeasured(gaps: Sequence[Gap]) -> str:
    count = sum(wording.finite(gap.gap) is None for gap in gaps)
    return f" {count} of {len(gaps)} runs never reached that loss and are missing." if count else ""


def _table(gaps: Sequence[Gap], first: str) -> Table:
    columns = [first, "arm", "seed", "samples per statistic", "matched loss", "gap", "final gap"]
    return table(columns, map(_cells, gaps))


def _cells(gap: Gap) -> list[str]:
    cell = style.panel(gap.activation, style.condition(gap.condition))
    start = [cell, wording.arm(gap.arm), str(gap.seed), str(gap.virtual_batch_size or _WHOLE)]
    accuracies = [wording.percent(gap.gap), wording.percent(gap.final_gap)]
    return [*start, wording.number(gap.matched_loss), *accuracies]
