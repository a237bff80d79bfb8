"""A drawing made of boxes, arrows, dots and words, in the colors of the report."""

import html
import math
from typing import Literal

Anchor = Literal["start", "middle", "end"]

INK, SOFT, RULE = "var(--ink)", "var(--ink-2)", "var(--ink-3)"
BLUE, ORANGE, GREEN = "var(--arm-batch-norm)", "var(--arm-none)", "var(--arm-default-init)"
_HEAD = 7.0


class Canvas:
    """Collects elements; positions are in pixels from the top left corner."""

    def __init__(self, width: float, height: float) -> None:
        self.width, self.height = width, height
        self._elements: list[str] = []

    def svg(self) -> str:
        """The drawing so far."""
        size = f'width="{self.width}" height="{self.height}"'
        return f'<svg xmlns="http://www.w3.org/2000/svg" {size}>{"".join(self._elements)}</svg>'

    def box(
        self, x: float, y: float, width: float, height: float, *lines: str, color: str = RULE
    ) -> None:
        """Draw a box with centered lines of text, the first of them in bold."""
        self._elements.append(
            f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="6" '
            f'fill="var(--page)" stroke="{color}" stroke-width="1.5"/>'
        )
        first = y + height / 2 + 5 - 9 * (len(lines) - 1)
        for i, line in enumerate(lines):
            size, bold = (14, True) if i == 0 else (12.5, False)
            self.text(x + width / 2, first + 18 * i, line, size=size, bold=bold, anchor="middle")

    def text(
        self,
        x: float,
        y: float,
        words: str,
        *,
        size: float = 13,
        color: str = INK,
        bold: bool = False,
        anchor: Anchor = "start",
    ) -> None:
        """Write one line."""
        weight = ' font-weight="600"' if bold else ""
        self._elements.append(
            f'<text x="{x}" y="{y}" font-size="{size}" fill="{color}" text-anchor="{anchor}"'
            f"{weight}>{html.escape(words, quote=False)}</text>"
        )

    def dot(self, x: float, y: float, *, radius: float = 5, color: str = BLUE) -> None:
        """Draw a dot."""
        self._elements.append(f'<circle cx="{x}" cy="{y}" r="{radius}" fill="{color}"/>')

    def line(
        self, x1: float, y1: float, x2: float, y2: float, *, color: str = RULE, width: float = 1.3
    ) -> None:
        """Draw a straight line."""
        self._elements.append(
            f'<line x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}" stroke="{color}" '
            f'stroke-width="{width}"/>'
        )

    def arrow(
        self, x1: float, y1: float, x2: float, y2: float, *, color: str = SOFT, width: float = 1.6
    ) -> None:
        """Draw a line with a head at its end."""
        angle = math.atan2(y2 - y1, x2 - x1)
        back_x, back_y = x2 - _HEAD * math.cos(angle), y2 - _HEAD * math.sin(angle)
        self.line(x1, y1, back_x, back_y, color=color, width=width)
        side_x, side_y = _HEAD / 2 * math.sin(angle), -_HEAD / 2 * math.cos(angle)
        points = [
            (x2, y2),
            (back_x + side_x, back_y + side_y),
            (back_x - side_x, back_y - side_y),
        ]
        corners = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        self._elements.append(f'<polygon points="{corners}" fill="{color}"/>')
