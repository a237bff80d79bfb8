"""The charts of a benchmark: times against PyTorch's and against the floor, and errors."""

from collections.abc import Callable, Iterable, Sequence

import altair as alt

from ...records import BenchResult, Timing
from .. import speeds, wording
from . import style
from .figure import Figure, Row, Spec, table

_COLORS = {
    "ours": "var(--arm-batch-norm)",
    "kernel": "var(--arm-kernel)",
    "eager": "var(--arm-none)",
    "onednn": "var(--arm-default-init)",
    "compile": "var(--arm-compile)",
}
_MARKS = {"contiguous": "circle", "channels-last": "square"}
_PER_SHAPE, _HEIGHT = 26, 300
"""Pixels per line of a chart by shape, and of one by size."""


def figures(result: BenchResult) -> tuple[Figure, ...]:
    """Draw the charts of a benchmark."""
    return faster(result), over_floor(result), errors(result)


def faster(result: BenchResult) -> Figure:
    """Draw, shape by shape, how many times faster than PyTorch eager everyone is."""
    rows = _rows(result, ("ours", "onednn", "compile"), lambda row: row.over_eager)
    return _figure(
        rows,
        id="faster",
        title="Times faster than PyTorch eager",
        caption="Each mark is one shape in one layout; right of the line it is faster than the "
        "layers of PyTorch, left of it slower. Forward and backward together, through autograd; "
        "in inference forward. Both directions are drawn alike: 2x and 0.5x are equally far from "
        "the line. oneDNN works in a blocked layout of its own, whatever the layout of the cell.",
        spec=_by_shape(rows, "times faster than PyTorch eager", mark=1.0),
        value="times faster",
        write=speeds.times,
    )


def over_floor(result: BenchResult) -> Figure:
    """Draw how many times the least possible memory traffic everyone takes, by size."""
    rows = _rows(result, ("ours", "kernel", "eager", "onednn"), lambda row: row.over_floor)
    return _figure(
        rows,
        id="floor",
        title="Times the floor",
        caption="The floor is what the least memory traffic of the operation costs at the speed "
        "of copying the same tensor: 1x is perfect. The small end is the cost of calls, layers "
        "and autograd; “our kernel alone” is without them, its outputs already in memory. The "
        "vertical line, where there is one, is the last-level cache.",
        spec=_by_size(rows, result.cache_bytes),
        value="times the floor",
        write=speeds.times,
    )


def errors(result: BenchResult) -> Figure:
    """Draw, shape by shape, how far from float64 everyone is."""
    rows = _rows(result, ("ours", "eager", "onednn"), lambda row: row.error)
    return _figure(
        rows,
        id="errors",
        title="Error against float64",
        caption="The largest deviation of any value of any result (output and gradients) from the "
        "same computed in float64, in root mean squares of that result. Further left is better.",
        spec=_by_shape(rows, "largest error"),
        value="largest error",
        write=lambda value: wording.number(value, 2),
    )


def _rows(
    result: BenchResult, names: Sequence[str], value: Callable[[Timing], float | None]
) -> tuple[Row, ...]:
    whole = [row for row in result.timings if row.phase == "both" or row.operation == "inference"]
    dtypes = {row.dtype for row in whole}
    found = []
    for row in whole:
        number = wording.finite(value(row)) if row.ms is not None else None
        if row.variant in names and row.phase != "copy" and number is not None and number > 0:
            operation = speeds.operation(row.operation)
            found.append(
                {
                    "panel": style.panel(operation, row.dtype if len(dtypes) > 1 else None),
                    "key": row.variant,
                    "arm": speeds.VARIANTS.get(row.variant, row.variant),
                    "layout": row.layout,
                    "shape": "×".join(map(str, row.shape)),
                    "megabytes": row.megabytes,
                    "value": number,
                    "ms": row.ms,
                }
            )
    return tuple(found)


def _figure(
    rows: Sequence[Row], *, value: str, write: Callable[[float], str], spec: Spec, **words: str
) -> Figure:
    columns = ["operation", "shape", "layout", "who", value, "ms"]
    cells = (
        [
            *(row[name] for name in ("panel", "shape", "layout", "arm")),
            write(row["value"]),
            wording.number(row["ms"]),
        ]
        for row in rows
    )
    data = table(columns, cells, limit=1000)
    missing = f"There is nothing to draw of: {words['title']}."
    return Figure(**words, spec=spec if rows else {}, rows=tuple(rows), table=data, missing=missing)


def _by_shape(rows: Sequence[Row], title: str, mark: float | None = None) -> Spec:
    """Draw values on a logarithmic axis, one line per shape, the layouts a little apart."""
    if not rows:
        return {}
    shapes = list(dict.fromkeys(row["shape"] for row in rows))
    y = alt.Y(
        "shape:N", sort=shapes, title=None, axis=alt.Axis(grid=True, ticks=False, labelPadding=6)
    )
    shown = [*rows, *([] if mark is None else [{"value": mark}])]
    marks = alt.Chart().mark_point(filled=True, size=60, opacity=0.85)
    marks = marks.encode(
        x=style.across(style.logarithmic(shown, title)),
        y=y,
        yOffset=alt.YOffset("layout:N", sort=list(_MARKS), scale=alt.Scale(paddingOuter=0.6)),
        color=_color(rows),
        shape=_shape(rows),
        tooltip=_tooltip(rows, title),
    )
    behind = [] if mark is None else [_rule("x", mark)]
    return style.side_by_side([*behind, marks], rows, _PER_SHAPE * len(shapes) + 20)


def _by_size(rows: Sequence[Row], cache_bytes: int | None) -> Spec:
    if not rows:
        return {}
    title = "times the floor"
    sizes = [{"value": row["megabytes"]} for row in rows]
    marks = alt.Chart().mark_point(filled=True, size=60, opacity=0.85)
    marks = marks.encode(
        x=style.across(style.logarithmic(sizes, "size of the input in MB"), "megabytes"),
        y=style.logarithmic([*rows, {"value": 1.0}], title),
        color=_color(rows),
        shape=_shape(rows),
        tooltip=_tooltip(rows, title),
    )
    behind = [_rule("y", 1.0)]
    if cache_bytes is not None and any(row["megabytes"] * 1e6 > cache_bytes for row in rows):
        behind.append(_rule("x", cache_bytes / 1e6))
    return style.side_by_side([*behind, marks], rows, _HEIGHT)


def _rule(axis: str, at: float) -> alt.Chart:
    rule = alt.Chart().mark_rule(color="var(--ink-3)", strokeWidth=1.5)
    line: alt.Chart = rule.encode(**{axis: alt.datum(at)})
    return line


def _color(rows: Iterable[Row]) -> alt.Color:
    present = {row["key"] for row in rows}
    names = [name for name in _COLORS if name in present]
    scale = alt.Scale(
        domain=[speeds.VARIANTS[name] for name in names], range=[_COLORS[name] for name in names]
    )
    return alt.Color("arm:N", scale=scale, title=None)


def _shape(rows: Iterable[Row]) -> alt.Shape:
    present = {row["layout"] for row in rows}
    names = [name for name in _MARKS if name in present]
    scale = alt.Scale(domain=names, range=[_MARKS[name] for name in names])
    legend = alt.Legend(symbolFillColor="var(--ink-2)")
    return alt.Shape("layout:N", scale=scale, title=None, legend=legend)


def _tooltip(rows: Sequence[Row], title: str) -> list[alt.Tooltip]:
    titles = {"arm": "who", "shape": "shape", "layout": "layout", "megabytes": "MB"}
    return style.tooltip(rows, **titles, value=title, ms="ms")
