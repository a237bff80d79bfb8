"""How a benchmark is worded: its rows, means and gaps as text, for page, terminal and docs."""

from collections.abc import Iterable
from dataclasses import dataclass

from ..records import BenchResult, GeometricMean, Timing
from . import wording
from .wording import ABSENT

OPERATIONS = {
    "bn": "BN",
    "bn+relu": "BN+ReLU",
    "bn+add+relu": "BN+add+ReLU",
    "inference": "inference BN+ReLU",
}
VARIANTS = {
    "ours": "ours",
    "kernel": "our kernel alone",
    "eager": "PyTorch eager",
    "onednn": "oneDNN",
    "compile": "torch.compile",
    "copy": "copy",
    "floor": "the floor",
}
PHASES = {"forward": "forward", "backward": "backward", "both": "forward and backward"}
SIZES = {
    "all": "all",
    "over the cache": "larger than the last-level cache",
    "1 MB to the cache": "1 MB up to that cache",
    "under 1 MB": "under 1 MB",
}
MEASURED = ("ours", "kernel", "eager", "onednn", "compile")
CHANNELS_LAST = "channels-last"

_SHORT = {"forward": "fwd", "backward": "bwd", "both": "both", "copy": "copy"}
BUSY = 0.1
"""Share of the machine that others may use before a reader is warned."""


@dataclass(frozen=True)
class SpeedTable:
    """Every time of one operation in one dtype."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def shape(row: Timing) -> str:
    """Write a shape; "cl" says that the channel is innermost.

    Example:
        >>> from types import SimpleNamespace
        >>> shape(SimpleNamespace(shape=(2, 3, 4, 4), layout="channels-last"))
        '2×3×4×4 cl'
    """
    size = "×".join(map(str, row.shape))
    return f"{size} cl" if row.layout == CHANNELS_LAST else size


def milliseconds(row: Timing | None) -> str:
    """Write the median; "–" where there is none."""
    return wording.number(row.ms if row else None, 3)


def spread(row: Timing | None) -> str:
    """Write half the distance of the quartiles, as a share of the median."""
    if row is None or row.ms is None or row.low_ms is None or row.high_ms is None:
        return ABSENT
    return f"±{50 * (row.high_ms - row.low_ms) / row.ms:.0f} %"


def times(ratio: float | None) -> str:
    """Write a ratio.

    Example:
        >>> times(3.14159), times(0.25), times(None)
        ('3.1x', '0.25x', '–')
    """
    ratio = wording.finite(ratio)
    return ABSENT if ratio is None else f"{wording.number(ratio, 2)}x"


def error(row: Timing | None) -> str:
    """Write the deviation from float64."""
    if row is None or row.ms is None:
        return ABSENT
    value = wording.finite(row.error)
    return "not finite" if value is None else short(value)


def short(value: float) -> str:
    """Write a small number with one digit.

    Example:
        >>> short(4.2e-7), short(0.0)
        ('4e-7', '0')
    """
    if value == 0:
        return "0"
    mantissa, exponent = f"{value:.0e}".split("e")
    return f"{mantissa}e{int(exponent)}"


def variants(result: BenchResult) -> list[str]:
    """Name who was measured, in the order of display."""
    present = {row.variant for row in result.timings if row.ms is not None}
    return [name for name in MEASURED if name in present]


def tables(result: BenchResult) -> list[SpeedTable]:
    """Put every row into a table per dtype and operation."""
    groups: dict[tuple[str, str], list[Timing]] = {}
    for row in result.timings:
        groups.setdefault((row.dtype, row.operation), []).append(row)
    names = variants(result)
    return [
        SpeedTable(
            f"{OPERATIONS.get(operation, operation)}, {dtype}",
            ("shape", "pass", "floor ms", *_columns(names)),
            tuple(_lines(rows, names)),
        )
        for (dtype, operation), rows in groups.items()
    ]


def reasons(result: BenchResult) -> list[str]:
    """Say once each why something was not measured.

    Returns:
        Sentences such as "torch.compile: no compiler (12 cells)".
    """
    cells: dict[tuple[str, str], set[tuple[object, ...]]] = {}
    for row in result.timings:
        if row.missing:
            cell = row.shape, row.layout, row.dtype, row.operation
            cells.setdefault((row.variant, row.missing), set()).add(cell)
    return [
        f"{VARIANTS.get(variant, variant)}: {why} ({len(found)} cell{'s' * (len(found) != 1)})"
        for (variant, why), found in cells.items()
    ]


def headlines(result: BenchResult) -> list[GeometricMean]:
    """Choose the means of whole steps, against the floor also by size."""
    whole = [m for m in result.means if m.phase == "both" or m.operation == "inference"]
    return [m for m in whole if m.group == "all" or m.against == "floor"]


def overview(result: BenchResult) -> SpeedTable:
    """Put the means of whole steps side by side: a line per comparison, a column per operation."""
    chosen = headlines(result)
    columns = list(dict.fromkeys((m.operation, m.dtype) for m in chosen))
    pairs = list(dict.fromkeys((m.variant, m.against) for m in chosen))
    order = [(*pair, group) for pair in pairs for group in SIZES]
    at = {(m.variant, m.against, m.group, (m.operation, m.dtype)): m for m in chosen}
    rows = []
    for variant, against, group in order:
        found = [at.get((variant, against, group, column)) for column in columns]
        if any(found):
            sizes = "" if group == "all" else f", {SIZES[group]}"
            cells = [f"{times(m.ratio)} ({times(m.worst)})" if m else ABSENT for m in found]
            rows.append((comparison(variant, against) + sizes, *cells))
    dtypes = {dtype for _, dtype in columns}
    names = [
        OPERATIONS.get(operation, operation) + (f", {dtype}" if len(dtypes) > 1 else "")
        for operation, dtype in columns
    ]
    title = "Geometric means over the shapes, in brackets the worst shape"
    return SpeedTable(title, ("whole steps", *names), tuple(rows))


def comparison(variant: str, against: str) -> str:
    """Say what a ratio is of.

    Example:
        >>> comparison("ours", "eager"), comparison("kernel", "floor")
        ('ours faster than PyTorch eager', 'our kernel alone over the floor')
    """
    of, other = (VARIANTS.get(name, name) for name in (variant, against))
    return f"{of} over {other}" if against == "floor" else f"{of} faster than {other}"


MEANS = ("operation", "pass", "what", "sizes", "cells", "geometric mean", "worst", "where")


def mean_cells(mean: GeometricMean) -> list[str]:
    """Write a mean as the cells of a table with the columns `MEANS`."""
    operation = f"{OPERATIONS.get(mean.operation, mean.operation)}, {mean.dtype}"
    what = comparison(mean.variant, mean.against)
    sizes = SIZES.get(mean.group, mean.group)
    numbers = [str(mean.cells), times(mean.ratio), times(mean.worst)]
    return [operation, _SHORT.get(mean.phase, mean.phase), what, sizes, *numbers, mean.worst_at]


def summary(result: BenchResult) -> str:
    """Sum it up in one or two sentences.

    Example:
        >>> from batchnorm.records import GeometricMean
        >>> from types import SimpleNamespace
        >>> mean = GeometricMean(
        ...     "float32", "bn", "both", "ours", "eager", "all", 9, 3.1, 1.4, "64×100 contiguous"
        ... )
        >>> summary(SimpleNamespace(means=(mean,)))
        'Times faster than PyTorch eager, on average: in float32 BN 3.1x.'
    """
    wanted = [m for m in headlines(result) if (m.variant, m.against) == ("ours", "eager")]
    if not wanted:
        return "No shape was measured to its end."
    by_dtype: dict[str, list[str]] = {}
    for m in wanted:
        name = OPERATIONS.get(m.operation, m.operation)
        by_dtype.setdefault(m.dtype, []).append(f"{name} {times(m.ratio)}")
    parts = [f"in {dtype} {', '.join(found)}" for dtype, found in by_dtype.items()]
    return f"Times faster than PyTorch eager, on average: {'; '.join(parts)}."


def warning(result: BenchResult) -> str:
    """Say that other programs were at work; empty where they were not."""
    share = wording.finite(result.used_by_others)
    if share is None or share <= BUSY:
        return ""
    return (
        f"Other programs used {wording.percent(share, 0)} of the processors meanwhile: "
        "take these times for a rehearsal."
    )


def _columns(names: Iterable[str]) -> list[str]:
    columns = []
    for name in names:
        label = {"kernel": "kernel", "eager": "eager", "compile": "compile"}.get(name, name)
        columns += [f"{label} ms", "±"]
        columns += ["× floor"] if name in ("ours", "kernel") else []
        columns += ["× eager"] if name == "ours" else []
        columns += ["error"] if name != "kernel" else []
    return columns


def _lines(rows: Iterable[Timing], names: Iterable[str]) -> Iterable[tuple[str, ...]]:
    lines: dict[tuple[str, str], dict[str, Timing]] = {}
    for row in rows:
        if row.phase != "copy":
            lines.setdefault((shape(row), row.phase), {})[row.variant] = row
    for (label, phase), found in lines.items():
        floor = next((row.floor_ms for row in found.values() if row.floor_ms is not None), None)
        cells = [label, _SHORT[phase], wording.number(floor, 3)]
        for name in names:
            one = found.get(name)
            cells += [milliseconds(one), spread(one)]
            cells += [times(one.over_floor if one else None)] if name in ("ours", "kernel") else []
            cells += [times(one.over_eager if one else None)] if name == "ours" else []
            cells += [error(one)] if name != "kernel" else []
        yield tuple(cells)
