"""A diagnosis in the terminal, the same as in its page."""

from collections.abc import Iterable
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ..records import DiagnosisResult, Finding, Measure, grouped, to_json
from ..report import heat

_STYLES = {"error": "bold red", "warning": "yellow", "information": "blue"}

_WIDTH = 120
"""Columns, where the output is no terminal that has a width of its own."""

SHOWN = ("mean_error", "log_std_error", "effective_batch", "between_batch", "dead_units")
"""Quantities in the table; all of them are in the JSON and in the page."""

NAMED = 6
"""Layers of one finding that are named."""


def print_diagnosis(result: DiagnosisResult, files: Iterable[Path], *, as_json: bool) -> None:
    """Print a diagnosis to stdout, and what was written.

    Args:
        result: The diagnosis.
        files: What was written.
        as_json: Print the whole result as JSON instead of words.
    """
    console = Console(stderr=True) if as_json else Console()
    if as_json:
        print(to_json(result))
    else:
        if not console.is_terminal:
            console = Console(width=_WIDTH)
        _print_words(console, result)
    for file in files:
        console.print(f"saved: {file}", highlight=False, markup=False, soft_wrap=True)


def _print_words(console: Console, result: DiagnosisResult) -> None:
    console.print(f"[bold]{escape(result.verdict)}[/]", highlight=False)
    for first, *others in grouped(result.findings):
        console.print()
        _print_group(console, first, others)
    for note in result.notes:
        console.print(f"\nnote: {note}", highlight=False, markup=False)
    if result.layers:
        console.print(_table(result))


def _print_group(console: Console, first: Finding, others: list[Finding]) -> None:
    style = _STYLES.get(first.severity, "")
    head = f"[{style}]{first.severity}[/] [bold]{escape(first.where)}[/] {escape(first.what)}"
    console.print(head, highlight=False)
    for word, text in (("why", first.why), ("do", first.remedy)):
        indented = text.replace("\n", "\n      ")
        console.print(f"  {word}: {indented}", highlight=False, markup=False)
    console.print(f"  see: {first.page}", highlight=False, markup=False, soft_wrap=True)
    if others:
        more = f", and {len(others) - NAMED} more" if len(others) > NAMED else ""
        names = ", ".join(finding.where for finding in others[:NAMED])
        console.print(f"  also: {names}{more}", highlight=False, markup=False)


def _table(result: DiagnosisResult) -> Table:
    measures = [measure for measure in result.measures if measure.name in SHOWN]
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("layer")
    table.add_column("class")
    for measure in measures:
        table.add_column(measure.title, justify="right")
    for layer in result.layers:
        cells = [_cell(layer.quantities.get(m.name), m) for m in measures]
        table.add_row(escape(layer.name or "(model)"), f"{layer.kind}({layer.channels})", *cells)
    return table


def _cell(value: float | None, measure: Measure) -> str:
    text = heat.quantity(value, measure.unit)
    share = heat.heat(value, measure) or 0.0
    if share >= 1:
        return f"[bold red]{text}[/]"
    return f"[yellow]{text}[/]" if share > 0.5 else text
