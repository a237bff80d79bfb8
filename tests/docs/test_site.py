"""The site is whole: every page and link leads somewhere, and nothing comes from a network."""

import contextlib
import inspect
import re
from importlib import import_module
from importlib.util import find_spec
from urllib.parse import unquote, urlsplit

import pytest
from built import DOCS, Page, build, configuration, listed
from typer.main import get_command

import batchnorm
from batchnorm import errors, functional, port, study
from batchnorm.cli import app

pytest.importorskip("mkdocs", reason="the site needs batchnorm[docs]")
slow = pytest.mark.slow

RAW = re.compile(
    r"<!--|\$\$|\$[^$\n]*\\|\\[a-z]{2,}|```|~~~|^:::|^!!!|\]\(|\*\*\w[^*\n]*\*\*|^\|[-: |]+\|$",
    re.M,
)
"""Markdown, or TeX, that was not understood."""


@pytest.fixture(scope="session")
def site(tmp_path_factory):
    return build(tmp_path_factory.getbasetemp())


@pytest.fixture(scope="session")
def pages(site):
    return {path.relative_to(site).as_posix(): Page(path) for path in site.rglob("*.html")}


def public():
    """Every public name, as it is called in the reference."""
    modules = {"functional", "port", "study"}
    names = [name for name in batchnorm.__all__ if name not in modules]
    names += [f"port.{name}" for name in port.__all__]
    names += [f"study.{name}" for name in study.__all__]
    for module in (errors, functional):
        short = module.__name__.removeprefix("batchnorm.")
        names += [
            f"{short}.{name}"
            for name, value in vars(module).items()
            if not name.startswith("_") and getattr(value, "__module__", "") == module.__name__
        ]
    return {unshadowed(f"batchnorm.{name}") for name in names}


def unshadowed(name):
    """Name a function that has the name of its module so that the function is meant."""
    with contextlib.suppress(ModuleNotFoundError):
        if find_spec(name):
            return f"{name}.{name.rpartition('.')[2]}"
    return name


def directives():
    """What the pages of the reference ask for."""
    texts = [path.read_text(encoding="utf-8") for path in (DOCS / "reference").glob("*.md")]
    return [name for text in texts for name in re.findall(r"^::: (\S+)$", text, re.MULTILINE)]


def test_every_public_name_is_in_the_reference_once():
    asked = directives()
    assert len(set(asked)) == len(asked)
    assert public() <= set(asked)
    assert len(public()) > 60


def test_the_reference_asks_for_nothing_that_is_not_there():
    for name in directives():
        module, _, attribute = name.rpartition(".")
        assert not inspect.ismodule(getattr(import_module(module), attribute)), name


def test_every_page_is_in_the_navigation_once():
    pages = [path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")]
    assert sorted(listed(configuration()["nav"])) == sorted(pages)


@slow
def test_one_can_get_to_every_page_from_the_first_one(pages):
    reached, new = set(), {"index.html"}
    while new:
        reached |= new
        new = {target for name in new for target, _ in inside(pages, name)} & set(pages) - reached
    assert set(pages) - reached == {"404.html"}


def inside(pages, name):
    """List where the links of a page lead within the site, as a page and an anchor."""
    folder = pages[name].path.parent
    root = pages["index.html"].path.parent
    for link in pages[name].links:
        parts = urlsplit(link)
        if not parts.scheme:
            target = (folder / unquote(parts.path)).resolve() if parts.path else pages[name].path
            yield target.relative_to(root.resolve()).as_posix(), unquote(parts.fragment)


@slow
def test_links_lead_to_pages_and_to_sections(site, pages):
    dead, seen = [], 0
    for name in set(pages) - {"404.html"}:
        for target, anchor in inside(pages, name):
            seen += 1
            found = (site / target).is_file()
            if not found or (anchor and anchor not in pages[target].ids | {"__tabbed"}):
                dead.append((name, target, anchor))
    assert dead == []
    assert seen > 1000


@slow
def test_nothing_is_loaded_from_a_network(site, pages):
    loads = {(name, load) for name, page in pages.items() for load in page.loads}
    assert [found for found in loads if re.match(r"(https?:)?//", found[1])] == []
    assert len({load for _, load in loads}) > 30
    for style in site.rglob("*.css"):
        text = style.read_text(encoding="utf-8")
        assert not re.search(r"@import|url\(['\"]?(https?:)?//", text), style


@slow
def test_what_is_loaded_is_there(pages):
    for page in pages.values():
        for load in page.loads:
            if page.path.name != "404.html" and not load.startswith("data:"):
                assert (page.path.parent / unquote(urlsplit(load).path)).is_file(), (
                    page.path,
                    load,
                )


@slow
def test_no_marks_and_no_markdown_are_left(pages):
    left = {name: RAW.findall(page.prose) for name, page in pages.items() if RAW.search(page.prose)}
    assert left == {}
    assert not any("<!-- =" in page.path.read_text(encoding="utf-8") for page in pages.values())
    assert RAW.search(r"a $\mu$") and RAW.search("<!-- = x -->") and RAW.search("\n::: batchnorm.x")


@slow
def test_formulas_are_mathml(pages):
    text = pages["mathematics.html"].path.read_text(encoding="utf-8")
    assert text.count("<math") > 100
    assert text.count('display="block"') == (DOCS / "mathematics.md").read_text().count("\n$$")


@slow
def test_sessions_are_copied_as_code(pages):
    sessions = [
        (name, text, copied)
        for name, page in pages.items()
        for text, copied in page.sessions
        if text.lstrip().startswith(">>> ")
    ]
    assert len(sessions) > 100
    for name, text, copied in sessions:
        assert copied, (name, text)
        compile(copied, name, "exec")
        assert ">>>" not in copied
        assert "# doctest:" not in text


@slow
def test_folded_answers_are_rendered(pages):
    text = pages["mathematics.html"].path.read_text(encoding="utf-8")
    answers = re.findall(r"<details.*?</details>", text, re.DOTALL)
    assert len(answers) >= 5
    assert all('class="language-pycon' in answer for answer in answers)


@slow
def test_the_reference_shows_every_public_name(pages):
    shown = set().union(*(page.ids for name, page in pages.items() if "reference/" in name))
    assert public() <= shown
    texts = (page.path.read_text(encoding="utf-8") for page in pages.values())
    assert not any("doc-symbol-module" in text for text in texts), "a module, with all it has"


@slow
def test_the_reference_shows_every_command_with_its_options(pages):
    page = pages["reference/commands.html"]
    commands = get_command(app).commands
    assert {f"batchnorm-{name}" for name in commands} <= page.ids
    shown = " ".join(page.code)
    wanted = {name for c in commands.values() for o in c.params for name in o.opts if "--" in name}
    assert len(wanted) > 30
    assert {name for name in wanted if not re.search(rf"{name}\b", shown)} == set()


@slow
def test_sources_are_shown_as_they_are(pages):
    text, _ = pages["sources/src/batchnorm/reference.py.html"].sessions[0]
    source = (DOCS.parent / "src" / "batchnorm" / "reference.py").read_text(encoding="utf-8")
    assert text.strip() == source.strip()
