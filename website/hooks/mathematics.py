"""Turn TeX into MathML while the site is built: no page needs a script or a network for it."""

import html
import re
from typing import Any

from latex2mathml.converter import convert
from mkdocs.exceptions import PluginError

INLINE = re.compile(r'<span class="arithmatex">\\\((.*?)\\\)</span>', re.DOTALL)
DISPLAY = re.compile(r'<div class="arithmatex">\s*\\\[(.*?)\\\]\s*</div>', re.DOTALL)


def on_page_content(content: str, page: Any, **_: Any) -> str:
    """Replace what `pymdownx.arithmatex` has found."""
    where = page.file.src_uri
    content = INLINE.sub(lambda found: mathml(found[1], "inline", where), content)
    return DISPLAY.sub(
        lambda found: f'<div class="formula">{mathml(found[1], "block", where)}</div>', content
    )


def mathml(escaped: str, display: str, where: str) -> str:
    """Translate one formula, or say which page has one that cannot be."""
    tex = html.unescape(escaped).strip()
    try:
        found = convert(tex, display=display)
    except Exception as error:
        raise PluginError(
            f"{where}: no MathML can be made of the formula {tex!r}: {error!r}"
        ) from error
    text = html.unescape(re.sub(r"<[^>]*>", "", found))
    if "\\" in text:
        raise PluginError(f"{where}: the formula {tex!r} has commands that are not known: {text!r}")
    return found
