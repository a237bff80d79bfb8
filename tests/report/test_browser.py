import os

import pytest

from batchnorm.report import write, write_bench, write_diagnosis

from . import sample, sample_bench, sample_diagnosis
from .browser import BROWSER, DRIVER, browser

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(
        not (BROWSER and DRIVER) and "BATCHNORM_REQUIRE_BROWSER" not in os.environ,
        reason="no chromium with chromedriver found",
    ),
]

# Every element with text of its own whose contrast with what is behind it is below 4.5.
PALE = """
const numbers = (color) => (color.match(/[\\d.]+/g) || []).map(Number);
const light = (c) => c.slice(0, 3).map((v) => v / 255)
  .map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
  .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
function behind(element) {
  for (let e = element; e; e = e.parentElement) {
    const color = numbers(getComputedStyle(e).backgroundColor);
    if (color.length === 3 || color[3] === 1) return color;
  }
  return [255, 255, 255];
}
function contrast(element) {
  const style = getComputedStyle(element);
  const front = numbers(element instanceof SVGElement ? style.fill : style.color);
  const [high, low] = [light(front), light(behind(element))].sort((a, b) => b - a);
  return (high + 0.05) / (low + 0.05);
}
const visible = (e) => e.getClientRects().length && !e.closest('script, style, .hidden, .skip');
const own = (e) => [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim());
const all = [...document.querySelectorAll('body *')].filter((e) => own(e) && visible(e));
return {
  texts: all.length,
  inCharts: all.filter((e) => e instanceof SVGElement).length,
  pale: all.filter((e) => contrast(e) < 4.5)
    .map((e) => [e.tagName, e.getAttribute('class'), e.textContent.slice(0, 30), contrast(e)]),
};
"""
CHARTS = """
return [...document.querySelectorAll('.plot')].map((plot) => {
  const box = plot.querySelector('svg')?.getBoundingClientRect();
  return { name: plot.dataset.figure, width: box?.width ?? 0, height: box?.height ?? 0,
           room: plot.clientWidth, marks: plot.querySelectorAll('.mark-symbol path').length };
});
"""
CARDS = """
return [...document.querySelectorAll('.card')].map((card) => ({
  top: card.getBoundingClientRect().top,
  bottom: card.getBoundingClientRect().bottom,
  chips: [...card.querySelectorAll('.chip')].map((chip) => chip.getBoundingClientRect().bottom),
}));
"""


@pytest.fixture(scope="module")
def window(tmp_path_factory):
    with browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reports")
    builds = (sample.study, sample.one_cell, sample.empty, sample.hostile)
    paths = {build.__name__: folder / f"{build.__name__}.html" for build in builds}
    for build in builds:
        write(build(), paths[build.__name__])
    for build in (sample_bench.bench, sample_bench.stopped, sample_bench.nothing):
        paths[build.__name__] = folder / f"{build.__name__}.html"
        write_bench(build(), paths[build.__name__])
    for name in ("diagnosis", "without_layers", "large", "odd"):
        paths[name] = folder / f"{name}.html"
        write_diagnosis(getattr(sample_diagnosis, name)(), paths[name])
    return paths


@pytest.mark.parametrize(
    "name",
    ["study", "one_cell", "empty", "hostile", "bench", "stopped", "nothing", "diagnosis", "odd"],
)
def test_charts_are_drawn_and_nothing_complains(window, reports, name):
    window.open(reports[name])
    charts = window.run(CHARTS)
    assert all(c["width"] > 100 and c["height"] > 100 and c["marks"] for c in charts), charts
    assert all(c["width"] <= c["room"] + 1 for c in charts), charts
    assert window.errors() == []


def test_five_cards_are_whole_on_the_first_screen(window, reports):
    window.open(reports["study"], 1440, 1000)
    cards = window.run(CARDS)
    assert len(cards) == 5
    assert all(card["top"] > 0 and card["bottom"] < 1000 for card in cards)
    assert [len(card["chips"]) for card in cards] == [2, 1, 2, 1, 1]


def test_banners_leave_the_verdicts_on_the_first_screen(window, reports):
    window.open(reports["one_cell"], 1440, 1000)
    assert all(max(card["chips"]) < 1000 for card in window.run(CARDS))


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", ["study", "one_cell", "empty", "bench", "stopped", "diagnosis"])
def test_all_text_is_legible_in_both_schemes(window, reports, name, scheme):
    window.open(reports[name], scheme=scheme)
    window.run("document.querySelectorAll('details').forEach((d) => (d.open = true))")
    found = window.run(PALE)
    assert found["pale"] == []
    assert found["texts"] > {"diagnosis": 60}.get(name, 100)
    assert found["inCharts"] > {"empty": -1, "stopped": 40, "diagnosis": 8}.get(name, 100)


def test_charts_follow_the_scheme_while_the_page_is_open(window, reports):
    window.open(reports["one_cell"], scheme="light")
    window.prefer("dark")
    assert window.run(PALE)["pale"] == []


@pytest.mark.parametrize(
    "name", ["study", "hostile", "empty", "bench", "diagnosis", "without_layers", "large"]
)
@pytest.mark.parametrize("width", [380, 820, 1440])
def test_page_never_scrolls_sideways(window, reports, name, width):
    window.open(reports[name], width, 800)
    assert window.run("return document.documentElement.scrollWidth") <= width
    if width == 380 and name in ("study", "hostile", "empty"):
        assert len({round(card["top"]) for card in window.run(CARDS)}) == 5


def test_page_is_readable_without_javascript(window, reports):
    window.open(reports["one_cell"], script=False)
    try:
        seen = window.run("return document.body.innerText")
    finally:
        window.open(reports["one_cell"])
    assert "This chart is drawn by JavaScript. Its data is in the table below." in seen
    assert "When it does not hold" in seen


def test_results_are_unpacked_by_the_page(window, reports):
    window.open(reports["one_cell"])
    window.run(
        "const save = (text) => { window.saved = text; };"
        "URL.createObjectURL = (blob) => { blob.text().then(save); return '#'; };"
        "document.querySelector('[data-inflate]').click();"
    )
    window.wait("return window.saved")
    assert window.run("return JSON.parse(window.saved).title") == sample.one_cell().title
