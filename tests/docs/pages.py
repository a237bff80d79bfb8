"""What a page of the documentation has: prose, sections, anchors, links, images."""

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
    return re.findall(r'<a id="([^"]*)"', prose(text))


def sections(text: str) -> dict[str, tuple[str, str]]:
    """Heading and body of the sections that have an anchor, by the anchor."""
    return {anchor: (heading, body) for anchor, heading, body in SECTION.findall(text)}


def prose(text: str) -> str:
    """The page without its code."""
    return FENCED.sub("", text)


def headings(text: str) -> list[str]:
    """The headings of the second level, in their order."""
    return re.findall(r"^## (.*)$", prose(text), re.MULTILINE)


def links(text: str) -> list[tuple[str, str]]:
    """File and anchor of every link that stays among the files here; either may be empty."""
    return re.findall(r"\]\((?!https?:)([^)#]*)#?([^)]*)\)", prose(text))


def broken_links(name: str, text: str) -> list[str]:
    """Links of a page to files that are not there, or to places that these do not have."""
    found = []
    for target, anchor in links(text):
        there = (DOCS / name).parent / target if target else DOCS / name
        if not there.exists() or (anchor and anchor not in places(there.read_text("utf-8"))):
            found.append(f"{target}#{anchor}")
    return found


def poor_images(name: str, text: str) -> list[str]:
    """Images of a page that are not there, or have no words for who does not see them."""
    return [
        target
        for words, target in re.findall(r"!\[(.*?)\]\((.*?)\)", text, re.DOTALL)
        if not ((DOCS / name).parent / target).is_file() or len(words) <= 30
    ]


def places(text: str) -> set[str]:
    """Where links can lead: anchors, and headings as GitHub and MkDocs name them."""
    all_levels = re.findall(r"^#+ (.*)$", prose(text), re.MULTILINE)
    slugs = {re.sub(r"[^\w\- ]", "", h.lower()).strip().replace(" ", "-") for h in all_levels}
    return slugs | set(anchors(text))
