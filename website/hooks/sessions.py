"""Show Python sessions as sessions, and copy them as code: without prompts and without output."""

import html
import re
from typing import Any

FLAG = re.compile(r"[ \t]+# doctest: \+\w+$", re.MULTILINE)
OPENING = re.compile(r"^```python\n(?=>>> )", re.MULTILINE)
BLOCK = re.compile(r'<div class="([^"]*\bhighlight)">(.*?)</pre></div>', re.DOTALL)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Name the language of sessions, which GitHub colors well enough; drop doctest's flags."""
    return OPENING.sub("```pycon\n", FLAG.sub("", markdown))


def on_page_content(content: str, **_: Any) -> str:
    """Give the button that copies a block the code of its session."""
    return BLOCK.sub(_with_code, content)


def _with_code(block: re.Match[str]) -> str:
    code = typed(html.unescape(re.sub(r"<[^>]*>", "", block[2])))
    if not code:
        return block[0]
    return f'<div class="{block[1]}" data-copy="{html.escape(code)}">{block[2]}</pre></div>'


def typed(session: str) -> str:
    """Keep what a person types in a session; nothing, if this is none."""
    lines = session.strip().splitlines()
    if not lines or not lines[0].startswith(">>> "):
        return ""
    return "\n".join(
        line[4:] for line in lines if line.startswith((">>> ", "... ")) or line == "..."
    )
