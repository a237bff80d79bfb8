"""Bring files that pages link to, outside of docs/, into the site, as pages that show them."""

import json
import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[2]
LINK = re.compile(r"(?<=\]\()(\.\./[^)\s#]+)(?=[)#])")
LANGUAGES = {".py": "python", ".json": "json", ".cpp": "cpp", ".h": "cpp", ".toml": "toml"}


def on_files(files: Files, config: Any, **_: Any) -> Files:
    """Add a page for every file that is linked to."""
    linked = {
        path
        for file in files.documentation_pages()
        for target in LINK.findall(file.content_string)
        if (path := repository_path(file.src_uri, target))
    }
    for path in sorted(linked):
        files.append(File.generated(config, page_of(path), content=document(path)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Let links lead to these pages."""
    here = page.file.src_uri

    def inside(link: re.Match[str]) -> str:
        path = repository_path(here, link[1])
        return posixpath.relpath(page_of(path), posixpath.dirname(here)) if path else link[1]

    return LINK.sub(inside, markdown)


def repository_path(page: str, target: str) -> str | None:
    """Where a link leads, from the root of the repository; None if it stays within docs/."""
    path = posixpath.normpath(posixpath.join("docs", posixpath.dirname(page), target))
    return path if not path.startswith("docs/") and (ROOT / path).is_file() else None


def page_of(path: str) -> str:
    """Name the page that shows a file."""
    return f"sources/{path}.md"


def document(path: str) -> str:
    """Show a file: a notebook cell by cell, anything else as it is. It is not searched."""
    text = (ROOT / path).read_text(encoding="utf-8")
    shown = (
        notebook(text) if path.endswith(".ipynb") else fenced(text, LANGUAGES[Path(path).suffix])
    )
    return f"---\nsearch:\n  exclude: true\n---\n\n# {Path(path).name}\n\n`{path}`\n\n{shown}"


def notebook(text: str) -> str:
    """Write the cells of a notebook and what they printed as Markdown."""
    return "\n\n".join(part for cell in json.loads(text)["cells"] for part in _parts(cell))


def _parts(cell: dict[str, Any]) -> list[str]:
    source = "".join(cell["source"])
    if cell["cell_type"] == "markdown":
        return [re.sub(r"^# ", "## ", source)]
    return [fenced(source, "python"), *map(_printed, cell.get("outputs", []))]


def _printed(output: dict[str, Any]) -> str:
    data = output.get("data", {})
    if "image/svg+xml" in data:
        return f'<div class="figure">{"".join(data["image/svg+xml"])}</div>'
    if "image/png" in data:
        picture = data["image/png"].strip()
        return f"![A picture that the cell has drawn](data:image/png;base64,{picture})"
    return fenced("".join(output.get("text") or data.get("text/plain", "")), "text")


def fenced(text: str, language: str) -> str:
    """Put text between fences that it does not contain."""
    return f"~~~~~~{language}\n{text.rstrip()}\n~~~~~~"
