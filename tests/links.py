"""What pages of the documentation link to, and where a link can lead."""

import re
from pathlib import Path


def prose(text):
    """The page without its code."""
    return re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)


def anchors(text):
    """The names by which headings can be linked to, and those that are set by hand."""
    headings = re.findall(r"^#+ (.*)$", prose(text), re.MULTILINE)
    slugs = {
        re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings
    }
    return slugs | set(re.findall(r'<a id="([^"]+)"></a>', text))


def targets(text):
    """File and anchor of every link that stays among the pages; either may be empty."""
    return re.findall(r"\]\((?!https?:)([^)#]*)#?([^)]*)\)", prose(text))


def broken(page: Path, text):
    """Links of a page to files that are not there, or to headings that these do not have."""
    found = []
    for target, anchor in targets(text):
        there = (page.parent / target).resolve() if target else page
        if not there.exists() or (anchor and anchor not in anchors(there.read_text("utf-8"))):
            found.append(f"{target}#{anchor}" if anchor else target)
    return found


def undescribed(page: Path, text):
    """Images of a page that are not there, or have no words for who does not see them."""
    return [
        target
        for words, target in re.findall(r"!\[(.*?)\]\((.*?)\)", text, re.DOTALL)
        if not (page.parent / target).resolve().is_file() or len(words) <= 30
    ]


def sections(text):
    """The headings of the second level, in their order."""
    return re.findall(r"^## (.*)$", prose(text), re.MULTILINE)
