"""The records that pages and figures are made from, in docs/data."""

import dataclasses
import functools
import json
import platform
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from batchnorm.records import StudyResult, from_json, write_text

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
FOLDER = DOCS / "data"

Row = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Measurement:
    """What a script of `teaching.measure` found, and how."""

    settings: dict[str, str]
    """In words, for readers."""
    versions: dict[str, str]
    rows: tuple[Row, ...]

    def where(self, **values: Any) -> list[Row]:
        """Select the rows that have these values."""
        return [row for row in self.rows if all(row[name] == v for name, v in values.items())]

    def one(self, **values: Any) -> Row:
        """Select the only row that has these values."""
        (row,) = self.where(**values)
        return row


@functools.cache
def study() -> StudyResult:
    """Read the record of `make study`."""
    return from_json(StudyResult, (FOLDER / "study" / "results.json").read_text(encoding="utf-8"))


@functools.cache
def load(name: str) -> Measurement:
    """Read what a script of `teaching.measure` found."""
    found = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    return Measurement(found["settings"], found["versions"], tuple(found["rows"]))


def save(name: str, settings: dict[str, str], rows: Iterable[Row]) -> None:
    """Write what a script has found, one row a line, so that differences can be read."""
    head = json.dumps({"settings": settings, "versions": versions()}, indent=1)
    lines = ",\n".join("  " + json.dumps(_rounded(row), ensure_ascii=False) for row in rows)
    write_text(FOLDER / f"{name}.json", f'{head[:-2]},\n "rows": [\n{lines}\n ]\n}}\n')
    load.cache_clear()


def versions() -> dict[str, str]:
    """What a measurement depends on beside its script."""
    names = ("batchnorm", "torch", "numpy", "scikit-learn")
    return {"python": platform.python_version(), **{name: version(name) for name in names}}


def _rounded(row: Row) -> Row:
    """Keep six digits of every number: more than any page or figure shows."""
    return {k: float(f"{v:.6g}") if isinstance(v, float) else v for k, v in row.items()}
