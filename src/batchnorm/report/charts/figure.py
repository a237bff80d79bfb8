"""What a chart hands to the page: its specification, its data and the words around it."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

Row = dict[str, Any]
Spec = dict[str, Any]

MAX_ROWS = 150


@dataclass(frozen=True)
class Table:
    """The data of a chart for readers, cut where it would be too long to read."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    total: int

    @property
    def is_cut(self) -> bool:
        """Whether rows were left out."""
        return len(self.rows) < self.total


@dataclass(frozen=True)
class Figure:
    """One chart with its caption, or the sentence that stands in its place."""

    id: str
    title: str
    caption: str
    spec: Spec
    rows: tuple[Row, ...]
    table: Table
    missing: str
    """What to say where there is nothing to draw."""

    @property
    def panels(self) -> int:
        """Number of small charts side by side."""
        return len({row["panel"] for row in self.rows})

    @property
    def height(self) -> int:
        """Height of one panel in pixels."""
        return int(self.spec.get("spec", {}).get("height", 0))

    def data(self) -> dict[str, Any]:
        """Write the specification and its data, one list per column, for the script of the page."""
        names = [name for name in self.rows[0] if name != "key"] if self.rows else []
        columns = {name: _column([row[name] for row in self.rows]) for name in names}
        return {"spec": self.spec, "columns": columns}


def table(columns: Sequence[str], rows: Iterable[Sequence[str]], limit: int = MAX_ROWS) -> Table:
    """Collect rows of text; beyond the limit, evenly spaced ones are kept.

    Example:
        >>> table(["a"], [["1"], ["2"], ["3"], ["4"]], limit=2).rows
        (('1',), ('3',))
    """
    every = [tuple(row) for row in rows]
    kept = [every[i * len(every) // limit] for i in range(limit)] if len(every) > limit else every
    return Table(tuple(columns), tuple(kept), len(every))


def _column(values: Sequence[Any]) -> Any:
    """Write the values of one column; of text, which repeats itself, each word only once."""
    if not all(isinstance(value, str) for value in values):
        return [_plain(value) for value in values]
    position = {word: i for i, word in enumerate(dict.fromkeys(values))}
    return {"words": list(position), "at": [position[value] for value in values]}


def _plain(value: Any) -> Any:
    """Round to what a chart can show; null for what is not finite."""
    if isinstance(value, float):
        return float(f"{value:.4g}") if math.isfinite(value) else None
    return value
