"""Take out the marks that say where a number comes from: `<!-- = 1a / effect -->14x<!-- / -->`."""

import re
from typing import Any

CODE_OR_MARK = re.compile(
    r"(?P<code>^(?P<fence>`{3,}|~{3,}).*?^(?P=fence)[ \t]*$|(?P<ticks>`+)(?!`).+?(?P=ticks)(?!`))"
    r"|<!--.*?-->",
    re.MULTILINE | re.DOTALL,
)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Leave code as it is, and drop comments everywhere else."""
    return CODE_OR_MARK.sub(lambda found: found["code"] or "", markdown)
