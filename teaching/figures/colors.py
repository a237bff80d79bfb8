"""The colors of the report's style sheet, as figures need them: fixed, with a dark twin.

A figure is an image: it sees no style sheet of the page around it. So each color is written into it
for the light scheme, where every viewer understands it, and once more for readers who prefer dark.
"""

import functools
import re
import xml.etree.ElementTree as ET
from importlib.resources import files

_BLOCK = re.compile(r":root\s*\{(.*?)\}", re.DOTALL)
_COLOR = re.compile(r"--([\w-]+):\s*(#[0-9a-fA-F]{3,6})")
_VARIABLE = re.compile(r"var\(--([\w-]+)\)")
_PAINTS = ("fill", "stroke")


@functools.cache
def schemes() -> tuple[dict[str, str], dict[str, str]]:
    """Read the colors of the light and of the dark scheme, by name."""
    css = (files("batchnorm.report") / "templates" / "style.css").read_text(encoding="utf-8")
    light, dark = (dict(_COLOR.findall(block)) for block in _BLOCK.findall(css)[:2])
    return light, dark


def fixed(root: ET.Element) -> str:
    """Replace the variables in a drawing by colors; return the rules that turn them dark."""
    light, dark = schemes()
    used: dict[str, str] = {}
    for element in root.iter():
        classes = []
        for paint in _PAINTS:
            found = _VARIABLE.fullmatch(element.get(paint, ""))
            if found:
                name = found[1]
                element.set(paint, light[name])
                classes.append(f"{paint[0]}-{name}")
                used[classes[-1]] = f".{classes[-1]}{{{paint}:{dark[name]}}}"
        if classes:
            element.set("class", " ".join(classes))
    return "".join(used[name] for name in sorted(used))
