"""What the documentation quotes is what the examples print; they run as scripts do."""

import re
import runpy
import sys
from xml.etree import ElementTree

import pytest

from . import EXAMPLES, ROOT, example

gallery = example("gallery")
pictures = example("pictures")
each = pytest.mark.parametrize("name", gallery.NAMES)


@each
def test_docstring_and_page_quote_the_same_run(name):
    docstring, page = gallery.quoted(name)
    assert docstring == page
    assert len(page.splitlines()) >= 4


@each
def test_the_example_says_how_it_is_run_and_what_it_prints(name):
    text = (EXAMPLES / f"{name}.py").read_text()
    assert re.search(rf"^    python examples/{name}\.py", text, re.MULTILINE)
    assert "\nIt prints:\n\n    " in text


@each
def test_the_picture_is_drawn_and_shown(name):
    tree = ElementTree.parse(gallery.picture(name))
    assert tree.getroot().tag == "{http://www.w3.org/2000/svg}svg"
    alternative = re.search(rf"!\[([^]]+)\]\(examples/{name}\.svg\)", gallery.PAGE.read_text())
    assert len(alternative[1].split()) > 5
    text = gallery.picture(name).read_text()
    assert "prefers-color-scheme: dark" in text
    assert not re.search(r"https?://(?!www\.w3\.org/)|/tmp|/home|/root|/work", text)


@each
def test_it_is_a_command(name, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [f"{name}.py", "--help"])
    monkeypatch.syspath_prepend(EXAMPLES)
    with pytest.raises(SystemExit) as stopped:
        runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    assert stopped.value.code == 0
    said = capsys.readouterr().out
    assert "--figure" in said
    assert ("--out" in said) == (name == "export")


def test_every_link_of_the_page_leads_to_a_file():
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", gallery.PAGE.read_text())
    assert len(links) > 20
    assert not [link for link in links if not (ROOT / "docs" / link).exists()]


def test_a_picture_has_the_same_bytes_twice_and_each_color_a_dark_twin(tmp_path):
    rows = [{"x": x, "kind": kind, "group": "one"} for x in (1, 2) for kind in ("a", "b")]
    chart = pictures.dots(
        rows, pictures.alt.X("x:Q"), "group", {"a": pictures.BLUE, "b": pictures.ORANGE}
    )
    for name in ("one.svg", "two.svg"):
        pictures.draw(chart, tmp_path / name)
    text = (tmp_path / "one.svg").read_text()
    assert text == (tmp_path / "two.svg").read_text()
    drawn = set(re.findall(r'(?:fill|stroke)="(#\w{6})"', text.partition("</style>")[2]))
    assert drawn <= set(pictures._DARK)
    assert {pictures.BLUE, pictures.ORANGE} <= drawn
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.svg", "two.svg"]


@pytest.mark.parametrize("dark", [False, True])
def test_colors_can_be_told_from_the_page(dark):
    # WCAG 2.2: 4.5 for text (1.4.3), 3 for the lines and points of a chart (1.4.11).
    def shown(color):
        return pictures._DARK[color] if dark else color

    for color in (pictures.BLUE, pictures.ORANGE, pictures.GREEN, pictures.PURPLE):
        assert contrast(shown(color), shown(pictures._PAPER)) >= 3
    for color in (pictures.INK, pictures._FAINT):
        assert contrast(shown(color), shown(pictures._PAPER)) >= 4.5


def contrast(one, other):
    bright, dim = sorted((luminance(one), luminance(other)), reverse=True)
    return (bright + 0.05) / (dim + 0.05)


def luminance(color):
    parts = [int(color[k : k + 2], 16) / 255 for k in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def test_what_fails_to_be_written_leaves_the_old_file(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("old")

    def fail(temporary):
        temporary.write_text("half")
        raise ValueError("full")

    with pytest.raises(ValueError, match="full"):
        example("files").write(path, fail)
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("file.txt", "old")]
