"""The times of a benchmark in the terminal, the same as in its page."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from ..records import BenchResult, to_json
from ..report import speeds, wording

_WIDTH = 200
"""Columns, where the output is no terminal that has a width of its own."""

_GPU = (
    "; % copy: share of the copy's bandwidth at which it moves what has to be moved; host ms: what "
    "the host takes to ask for it; by: whose kernels serve PyTorch"
)


def print_speeds(result: BenchResult, files: Iterable[Path], *, as_json: bool) -> None:
    """Print the times to stdout, and where they were saved.

    Args:
        result: The benchmark.
        files: What was written.
        as_json: Print the whole result as JSON instead of the tables.
    """
    if as_json:
        print(to_json(result))
        _print_files(Console(stderr=True), files)
        return
    console = Console()
    if not console.is_terminal:
        console = Console(width=_WIDTH)
    for times in speeds.tables(result):
        console.print(_table(times.title, times.columns, times.rows))
    means = speeds.overview(result)
    console.print(_table(means.title, means.columns, means.rows))
    for line in (*speeds.reasons(result), speeds.warning(result), _end(result)):
        if line:
            console.print(line, highlight=False, markup=False, soft_wrap=True)
    _print_files(console, files)


def _print_files(console: Console, files: Iterable[Path]) -> None:
    for file in files:
        console.print(f"saved: {file}", highlight=False, markup=False, soft_wrap=True)


def _table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    table = Table(title=title, box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for column in columns:
        is_text = column in ("shape", "pass", "by", "whole steps")
        # The names of operations and dtypes may take several lines, numbers may not.
        may_wrap = is_text or "whole steps" in columns
        table.add_column(column, justify="left" if is_text else "right", no_wrap=not may_wrap)
    for row in rows:
        table.add_row(*row)
    return table


def _end(result: BenchResult) -> str:
    state = "stopped, PARTIAL" if result.partial else "finished"
    cells = {(row.shape, row.layout, row.dtype, row.operation) for row in result.timings}
    return (
        f"{state}: {len(cells)} cells in {wording.duration(result.wall_seconds)}; "
        f"{speeds.where(result)}. "
        "cl: channels-last; error: largest deviation from float64, in root mean squares; "
        "floor: the least memory traffic at the speed of a copy"
        f"{_GPU if 'GPU' in result.machine else ''}"
    )
