"""One SVG file from a drawing: a title and a description, both color schemes, nothing else.

The file draws its own paper, so that it can be read wherever it is shown.
"""

import re
import xml.etree.ElementTree as ET

from . import colors

FONT = "Helvetica, Arial, 'Liberation Sans', sans-serif"
"""Metrics that every system has: labels keep their place."""

MARGIN = 14
_SVG = "{http://www.w3.org/2000/svg}"
_DROPPED = {"class", "role", "pointer-events", "font-family", "style"}
_DEFAULTS = {"opacity": "1", "stroke-width": "1", "fill-opacity": "1", "stroke-opacity": "1"}
_NUMBER = re.compile(r"-?\d+\.\d{3,}(?:e-?\d+)?")
_EMPTY = {"", "M0,0h0v0h0Z"}


def document(drawn: str, title: str, description: str) -> str:
    """Make a file of a drawing.

    Args:
        drawn: SVG whose colors are variables of the report's style sheet.
        title: What is drawn.
        description: What it shows, in words, for who does not see it.

    Returns:
        The text of the file; the same for the same drawing.
    """
    root = ET.fromstring(drawn)
    width, height = (float(root.get(side, "0")) for side in ("width", "height"))
    body = ET.Element("g", transform=f"translate({MARGIN} {MARGIN})")
    body.extend(root)
    _trim(body)
    paper = ET.Element("rect", width="100%", height="100%", rx="8", fill="var(--paper)")
    whole = ET.Element("svg")
    whole.extend([paper, body])
    rules = colors.fixed(whole)
    inner = "\n".join(ET.tostring(part, encoding="unicode") for part in whole)
    box = f"{_plain(width + 2 * MARGIN)} {_plain(height + 2 * MARGIN)}"
    size = 'width="{}" height="{}"'.format(*box.split())
    style = f"<style>@media (prefers-color-scheme: dark){{{rules}}}</style>"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} viewBox="0 0 {box}" role="img" '
        f'aria-labelledby="title description" font-family="{FONT}">\n'
        f'<title id="title">{_escape(title)}</title>\n'
        f'<desc id="description">{_escape(description)}</desc>\n'
        f"{style}\n{inner}\n</svg>\n"
    )


def _trim(element: ET.Element) -> None:
    """Drop what draws nothing, round numbers, and take groups that group nothing apart."""
    element.tag = element.tag.removeprefix(_SVG)
    for name, value in list(element.attrib.items()):
        if name in _DROPPED or name.startswith("aria-") or _DEFAULTS.get(name) == value:
            del element.attrib[name]
        else:
            element.set(name, _rounded(value))
    kept: list[ET.Element] = []
    for child in element:
        _trim(child)
        child.tail = None
        if child.tag == "g" and not child.attrib:
            kept += list(child)
        elif not _draws_nothing(child):
            kept.append(child)
    element[:] = kept


def _draws_nothing(element: ET.Element) -> bool:
    if element.tag == "g":
        return len(element) == 0
    if element.tag == "path":
        unpainted = element.get("fill", "none") == "none" and element.get("stroke") is None
        return element.get("d", "") in _EMPTY or (unpainted and "fill" not in element.attrib)
    return False


def _rounded(value: str) -> str:
    return _NUMBER.sub(lambda found: _plain(float(found[0])), value)


def _plain(number: float) -> str:
    return f"{round(number, 2) + 0.0:.2f}".rstrip("0").rstrip(".")


def _escape(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
