"""Write docs/pairs.md: `python -m tests.pairs`."""

from .table import PATH, page

PATH.write_text(page(), encoding="utf-8")
