"""Numbers into pages: `<!-- = NAME -->what it is<!-- / -->`.

Markdown shows neither mark. A mark must not begin a line of prose: there Markdown would take the
rest of the line for HTML. A table has its marks on lines of their own.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from .data import DOCS, ROOT
from .numbers import value

PAGES = (
    *sorted((DOCS / "promises").glob("*.md")),
    DOCS / "mathematics.md",
    DOCS / "standardize.md",
    DOCS / "start.md",
    DOCS / "train.md",
    ROOT / "README.md",
)
MARKED = re.compile(r"<!-- = (?P<name>[^>]+?) -->(?P<said>.*?)<!-- / -->", re.DOTALL)
_OPEN = re.compile(r"<!-- [=/]")


def filled(text: str) -> str:
    """Put the numbers of today between the marks of a page."""
    return MARKED.sub(
        lambda found: f"<!-- = {found['name']} -->{value(found['name'])}<!-- / -->", text
    )


def stale(text: str) -> Iterator[str]:
    """Say which marks have something else between them than the records give."""
    for found in MARKED.finditer(text):
        if found["said"] != value(found["name"]):
            yield f"{found['name']!r}: said {found['said']!r}, is {value(found['name'])!r}"


def misplaced(text: str) -> Iterator[str]:
    """Say which lines begin with a mark and go on with prose, or have a mark without its other."""
    for number, line in enumerate(text.splitlines(), 1):
        if _OPEN.match(line.lstrip()) and not re.fullmatch(r"\s*<!-- [^>]* -->\s*", line):
            yield f"line {number} begins with a mark: {line.strip()!r}"
    for left in _OPEN.finditer(MARKED.sub("", text)):
        yield f"a mark stands alone near {text[left.start() : left.start() + 40]!r}"


def pages() -> list[Path]:
    """The pages that may have numbers in them."""
    return [path for path in PAGES if path.exists()]
