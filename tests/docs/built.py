"""The documentation as a site: built once for all test processes, and its pages, taken apart."""

import os
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import yaml
from filelock import FileLock

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
RESOURCES = {"script": "src", "img": "src", "iframe": "src", "source": "src", "object": "data"}


def build(folder: Path) -> Path:
    """Build the site once, in the folder that all test processes share; a warning is an error."""
    folder = folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder
    site = folder / "site"
    with FileLock(folder / "site.lock"):
        if not (folder / "site.done").exists():
            command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(site)]
            changed = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
            done = subprocess.run(command, cwd=ROOT, env=changed, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
            (folder / "site.done").touch()
    return site


class Page(HTMLParser):
    """What a page shows, links to, and loads."""

    def __init__(self, path: Path):
        super().__init__()
        self.path = path
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.sessions: list[tuple[str, str | None]] = []
        self.code: list[str] = []
        self.prose = ""
        self._inside: list[str] = []
        self._copy: str | None = None
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.ids |= {value for key, value in attributes if key in ("id", "name") and value}
        if tag == "a" and given.get("href"):
            self.links.append(given["href"])
        if tag == "link" and given.get("rel") in ("stylesheet", "icon", "preconnect", "preload"):
            self.loads.append(given["href"])
        if given.get(RESOURCES.get(tag, "")):
            self.loads.append(given[RESOURCES[tag]])
        if tag == "div" and "highlight" in (given.get("class") or "").split():
            self._copy = given.get("data-copy")
        if tag in ("pre", "code", "script", "style", "math", "svg"):
            self._inside.append(tag)
            if tag == "pre":
                self.sessions.append(("", self._copy))

    def handle_endtag(self, tag):
        if self._inside and self._inside[-1] == tag:
            self._inside.pop()

    def handle_data(self, data):
        if "pre" in self._inside:
            text, copy = self.sessions[-1]
            self.sessions[-1] = (text + data, copy)
        elif "code" in self._inside:
            self.code.append(data)
        if not self._inside:
            self.prose += data


def configuration() -> dict:
    """Read mkdocs.yml, without the Python objects in it."""

    class Loader(yaml.SafeLoader):
        pass

    Loader.add_multi_constructor("tag:yaml.org,2002:python/", lambda *_: None)
    return yaml.load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"), Loader)


def listed(entries) -> list[str]:
    """List the pages of a navigation, in order."""
    if isinstance(entries, str):
        return [entries]
    inner = entries.values() if isinstance(entries, dict) else entries
    return [page for entry in inner for page in listed(entry)]
