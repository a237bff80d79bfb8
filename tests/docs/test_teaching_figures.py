"""The figures of the teaching pages: whole files, readable in both schemes, always the same."""

import dataclasses
import os
import re
import xml.etree.ElementTree as ET

import pytest
from teaching.data import DOCS, study
from teaching.figures import FOLDER, claims, drawings, dying, ideas, svg
from teaching.figures.colors import schemes

from report.browser import BROWSER, DRIVER, browser


def _named(path):
    return re.findall(r"figures/([\w-]+)\.svg", path.read_text(encoding="utf-8"))


# As the pages name them: another test says that these are all, and to make them takes seconds.
NAMES = sorted({name for path in DOCS.rglob("*.md") for name in _named(path)})
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def by_name():
    return {drawing.name: drawing for drawing in drawings()}


@pytest.fixture(params=NAMES)
def text(request):
    return (FOLDER / f"{request.param}.svg").read_text(encoding="utf-8")


def test_names_are_of_one_figure_each(by_name):
    assert len(drawings()) == len(by_name) == len(NAMES) >= 20


def test_a_file_is_small_and_says_what_it_shows(text):
    assert len(text) < 100_000
    root = ET.fromstring(text)
    title, description = root.find(f"{SVG}title"), root.find(f"{SVG}desc")
    assert root.get("role") == "img"
    assert root.get("aria-labelledby") == f"{title.get('id')} {description.get('id')}"
    assert len(title.text) > 15
    assert len(description.text) > 40


def test_a_file_fetches_nothing(text):
    assert re.findall(r"(?:href|src|url)\s*[=(]", text) == []
    assert set(re.findall(r"https?://[^\"]*", text)) == {"http://www.w3.org/2000/svg"}
    assert "<script" not in text


def test_no_number_is_lost(text):
    assert "NaN" not in text
    assert "Infinity" not in text
    assert "undefined" not in text


def test_every_color_has_a_twin_for_the_dark_scheme(text):
    root = ET.fromstring(text)
    style = root.find(f"{SVG}style").text
    assert style.startswith("@media (prefers-color-scheme: dark)")
    rules = dict(re.findall(r"\.([fs]-[\w-]+)\{\w+:(#[0-9a-f]+)\}", style))
    light, dark = schemes()
    for element in root.iter():
        classes = element.get("class", "").split()
        for paint in ("fill", "stroke"):
            color = element.get(paint)
            if color in (None, "none", "transparent"):
                continue
            (name,) = [c[2:] for c in classes if c[0] == paint[0]]
            assert color == light[name]
            assert rules[f"{paint[0]}-{name}"] == dark[name]


def test_text_can_be_read_on_its_paper():
    for scheme in schemes():
        paper = luminance(scheme["paper"])
        for name in ("ink", "ink-2", "arm-none", "arm-batch-norm", "arm-default-init"):
            light, dark = sorted((luminance(scheme[name]), paper), reverse=True)
            assert (light + 0.05) / (dark + 0.05) > 4.0, name


def luminance(color):
    """Relative luminance as WCAG defines it."""
    channels = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


@pytest.mark.parametrize("name", ["drift", "one-idea"])
def test_drawing_again_gives_the_same_file(by_name, name):
    again = by_name[name].document()
    assert again == by_name[name].document()
    assert again == (FOLDER / f"{name}.svg").read_text(encoding="utf-8")


def test_what_a_figure_was_drawn_from_is_in_its_mark(by_name):
    drawing = by_name["drift"]
    mark = drawing.mark()
    assert dataclasses.replace(drawing, says="Something else.").mark() != mark
    content = {**drawing.content, "columns": 7}
    assert dataclasses.replace(drawing, content=content).mark() != mark
    almost = {**drawing.content, "extra": 1 / 3}
    same = {**drawing.content, "extra": 1 / 3 + 1e-15}
    marks = [dataclasses.replace(drawing, content=c).mark() for c in (almost, same)]
    assert marks[0] == marks[1] != mark


def test_a_figure_shows_the_part_of_the_record_its_page_is_about(by_name):
    rows = by_name["drift"].content["datasets"]["rows"]
    expected = [d for d in study().drifts if d.condition == "best" and d.arm != "default init"]
    expected = sorted(d.drift for d in expected if d.drift is not None)
    assert sorted(row["value"] for row in rows) == expected
    assert {row["panel"] for row in rows} == {"sigmoid", "relu"}
    steps = {p.step for p in study().profiles}
    assert steps == {0, 100}
    found = [row["value"] for row in by_name["error-signal"].content["datasets"]["rows"]]
    assert sorted(found) == sorted(p.error_rms for p in study().profiles if p.step == 0)


def test_only_what_is_asked_for_is_kept():
    kept = claims._only(study().gaps, condition="best", arm=("none",))
    assert kept
    assert {(gap.condition, gap.arm) for gap in kept} == {("best", "none")}


def test_shares_of_a_bell_curve():
    assert dying.share_on(0) == 0.5
    assert dying.share_on(-2) == pytest.approx(0.02275, rel=1e-3)
    assert dying.share_on(-4, gamma=-2) == pytest.approx(dying.share_on(-2))
    assert "on for 0.0032 %" in dying._panel(-4)


def test_the_worked_example():
    values = [values for _, values in ideas.steps()]
    assert values == [
        [2, 4, 5, 6, 8],
        [-3, -1, 0, 1, 3],
        [-1.5, -0.5, 0, 0.5, 1.5],
        [-2, 0, 1, 2, 4],
    ]


def test_trimming_keeps_what_is_drawn():
    drawn = (
        '<svg xmlns="http://www.w3.org/2000/svg" width="10" height="20"><g role="x"><g>'
        '<path d="" fill="red"/><path d="M0,0L1.23456,2" stroke="var(--ink)" opacity="1"/></g>'
        '<text fill="var(--ink-2)" font-family="a">a &lt; b</text></g></svg>'
    )
    text = svg.document(drawn, "A title", "A & B < C")
    assert 'width="38" height="48"' in text
    assert '<path d="M0,0L1.23,2" stroke="#1d2126" class="s-ink" />' in text
    assert '<text fill="#4a525c" class="f-ink-2">a &lt; b</text>' in text
    assert '<desc id="description">A &amp; B &lt; C</desc>' in text
    assert "red" not in text


@pytest.mark.browser
@pytest.mark.skipif(
    not (BROWSER and DRIVER) and "BATCHNORM_REQUIRE_BROWSER" not in os.environ,
    reason="no chromium with chromedriver found",
)
def test_a_reader_who_prefers_dark_sees_it_dark(tmp_path):
    with browser(tmp_path) as window:
        window._devtools("Page.navigate", {"url": (FOLDER / "batch.svg").as_uri()})
        window.wait("return document.querySelector('rect') !== null")
        colors = []
        for scheme in ("light", "dark"):
            window.prefer(scheme)
            script = "return getComputedStyle(document.querySelector('rect')).fill"
            colors.append(window.run(script))
    assert colors == ["rgb(255, 255, 255)", "rgb(29, 33, 37)"]
