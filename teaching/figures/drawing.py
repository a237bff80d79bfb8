"""A figure of a page, before it is drawn."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping

from . import chart, svg


@dataclasses.dataclass(frozen=True)
class Drawing:
    """One file of docs/figures.

    Args:
        name: The file without its ending.
        title: What is drawn.
        says: What it shows, for who does not see it.
        content: A specification of Vega-Lite, or SVG whose colors are variables.
    """

    name: str
    title: str
    says: str
    content: Mapping[str, object] | str

    def document(self) -> str:
        """Draw the file; the last line says what it was drawn from."""
        drawn = self.content if isinstance(self.content, str) else chart.drawn(dict(self.content))
        return svg.document(drawn, self.title, self.says) + self.mark()

    def mark(self) -> str:
        """A hash of everything the file depends on but the versions of what draws it."""
        parts = _rounded([self.title, self.says, self.content, *svg.colors.schemes()])
        canonical = json.dumps(parts, sort_keys=True, ensure_ascii=False)
        return f"<!-- drawn from {hashlib.sha256(canonical.encode()).hexdigest()[:16]} -->\n"


def _rounded(value: object) -> object:
    """Six digits of every number: the last ones differ between machines."""
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, Mapping):
        return {key: _rounded(item) for key, item in value.items()}
    return [_rounded(item) for item in value] if isinstance(value, list | tuple) else value
