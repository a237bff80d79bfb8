"""How a benchmark is worded: its rows, means and gaps as text, for page, terminal and docs."""

from collections.abc import Callable
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
NETWORKS = {"resnet50": "training step of ResNet-50"}
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


def operation(name: str) -> str:
    """Write what was computed.

    Example:
        >>> operation("bn+relu"), operation("resnet50")
        ('BN+ReLU', 'training step of ResNet-50')
    """
    return OPERATIONS.get(name) or NETWORKS.get(name, name)


def where(result: BenchResult) -> str:
    """Name what was measured on: the GPU, or the processor and how many threads."""
    machine = result.machine
    if "GPU" in machine:
        return machine["GPU"]
    processor = machine.get("processor", "an unknown processor")
    return f"{processor}, {machine.get('threads', '?')} threads"


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
    return [
        _table(f"{operation(name)}, {dtype}", rows, variants(result), "GPU" in result.machine)
        for (dtype, name), rows in groups.items()
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
    names = [operation(name) + (f", {dtype}" if len(dtypes) > 1 else "") for name, dtype in columns]
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
    what = comparison(mean.variant, mean.against)
    sizes = SIZES.get(mean.group, mean.group)
    numbers = [str(mean.cells), times(mean.ratio), times(mean.worst)]
    of = f"{operation(mean.operation)}, {mean.dtype}"
    return [of, _SHORT.get(mean.phase, mean.phase), what, sizes, *numbers, mean.worst_at]


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
        by_dtype.setdefault(m.dtype, []).append(f"{operation(m.operation)} {times(m.ratio)}")
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


def copy_share(row: Timing | None) -> str:
    """Write at which share of the copy's bandwidth it moves what has to be moved."""
    return wording.percent(row.copy_share if row else None, 0)


def _table(title: str, rows: list[Timing], names: list[str], on_gpu: bool) -> SpeedTable:
    is_network = all(row.floor_ms is None for row in rows)
    names = [name for name in names if any(row.variant == name for row in rows)]
    chosen = {name: _columns(name, is_network=is_network, on_gpu=on_gpu) for name in names}
    first = ("shape", "pass") if is_network else ("shape", "pass", "floor ms")
    labels = [label for columns in chosen.values() for label, _ in columns]
    lines: dict[tuple[str, str], dict[str, Timing]] = {}
    for row in rows:
        if row.phase != "copy":
            lines.setdefault((shape(row), row.phase), {})[row.variant] = row
    found = []
    for (label, phase), by_name in lines.items():
        floor = next((r.floor_ms for r in by_name.values() if r.floor_ms is not None), None)
        cells = [label, _SHORT[phase]] + ([] if is_network else [wording.number(floor, 3)])
        for name, columns in chosen.items():
            cells += [write(by_name.get(name)) for _, write in columns]
        found.append(tuple(cells))
    return SpeedTable(title, (*first, *labels), tuple(found))


_Columns = list[tuple[str, Callable[[Timing | None], str]]]


def _columns(name: str, *, is_network: bool, on_gpu: bool) -> _Columns:
    """Choose what is shown of a variant."""
    columns: _Columns = [(f"{name} ms", milliseconds), ("±", spread)]
    if on_gpu and not is_network and name in ("ours", "eager"):
        columns.append(("host ms", lambda row: wording.number(row.host_ms if row else None, 3)))
    if on_gpu and not is_network:
        columns.append(("% copy", copy_share))
    if not on_gpu and not is_network and name in ("ours", "kernel"):
        columns.append(("× floor", lambda row: times(row.over_floor if row else None)))
    if name == "ours":
        columns.append(("× eager", lambda row: times(row.over_eager if row else None)))
    if on_gpu and not is_network and name == "eager":
        columns.append(("by", lambda row: (row.by or "PyTorch") if row else ABSENT))
    if name != "kernel" and not is_network:
        columns.append(("error", error))
    return columns
