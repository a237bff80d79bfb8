"""The scripts of `examples/` that print a table, with fewer seeds than they print it for."""

import importlib
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"


def example(name):
    """Import a file of the examples, which import each other as scripts do."""
    sys.path.insert(0, str(EXAMPLES))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(EXAMPLES))


def of(rows, **wanted):
    """Take the rows that have these values."""
    return [row for row in rows if all(getattr(row, name) == wanted[name] for name in wanted)]


def mean(rows, name):
    """Average one column."""
    return sum(getattr(row, name) for row in rows) / len(rows)
