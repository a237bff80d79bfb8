"""The anchors of a page, and the sections they stand before."""

import re
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"

FENCED = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
SECTION = re.compile(
    r'^<a id="([^"]+)"></a>\n\n#{2,3} (.+)\n((?:(?!^<a id=|^## ).*\n)*)', re.MULTILINE
)


def read(name: str) -> str:
    """The text of a page."""
    return (DOCS / name).read_text(encoding="utf-8")


def anchors(text: str) -> list[str]:
    """The anchors that were set by hand, in their order."""
    return re.findall(r'<a id="([^"]*)"', FENCED.sub("", text))


def sections(text: str) -> dict[str, tuple[str, str]]:
    """Heading and body of the sections that have an anchor, by the anchor."""
    return {anchor: (heading, body) for anchor, heading, body in SECTION.findall(text)}


def broken_links(name: str, text: str) -> list[str]:
    """Links of a page to files that are not there, or to places that these do not have."""
    found = []
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#]*)#?([^)]*)\)", FENCED.sub("", text)):
        there = DOCS / target if target else DOCS / name
        if not there.exists() or (anchor and anchor not in places(there.read_text("utf-8"))):
            found.append(f"{target}#{anchor}")
    return found


def places(text: str) -> set[str]:
    """Where links can lead: anchors, and headings as GitHub and MkDocs name them."""
    headings = re.findall(r"^#+ (.*)$", FENCED.sub("", text), re.MULTILINE)
    slugs = {re.sub(r"[^\w\- ]", "", h.lower()).strip().replace(" ", "-") for h in headings}
    return slugs | set(anchors(text))
