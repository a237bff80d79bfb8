"""The site as a reader has it: from files, in both schemes, on a telephone, without a network."""

import os

import pytest
from built import build

from report.browser import BROWSER, DRIVER, browser

pytest.importorskip("mkdocs", reason="the site needs batchnorm[docs]")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.browser,
    pytest.mark.skipif(
        not (BROWSER and DRIVER) and "BATCHNORM_REQUIRE_BROWSER" not in os.environ,
        reason="no chromium with chromedriver found",
    ),
]

PAGES = [
    "index",
    "start",
    "insert",
    "ship",
    "errors",
    "findings",
    "glossary",
    "mathematics",
    "promises/gradients",
    "performance",
    "pairs",
    "port",
    "gpu",
    "reference/layers",
    "reference/surgery",
    "sources/examples/notebooks/classifier.ipynb",
]
READY = "return document.readyState === 'complete'"

# Every text whose contrast with what is behind it is below 4.5, translucent colors mixed.
PALE = """
const numbers = (color) => (color.match(/[\\d.]+/g) || []).map(Number);
const over = (front, back) => {
  const alpha = front[3] ?? 1;
  return [0, 1, 2].map((i) => front[i] * alpha + back[i] * (1 - alpha));
};
const light = (c) => c.map((v) => v / 255)
  .map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
  .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
function behind(element) {
  const layers = [];
  for (let e = element; e; e = e.parentElement) {
    const color = numbers(getComputedStyle(e).backgroundColor);
    layers.push(color);
    if ((color[3] ?? 1) === 1) break;
  }
  return layers.reverse().reduce((back, front) => over(front, back), [255, 255, 255]);
}
function contrast(element) {
  const back = behind(element);
  const front = over(numbers(getComputedStyle(element).color), back);
  const [high, low] = [light(front), light(back)].sort((a, b) => b - a);
  return (high + 0.05) / (low + 0.05);
}
const shown = (e) => e.getClientRects().length && !e.closest('script, style, svg, .md-skip')
  && e.checkVisibility({ opacityProperty: true, visibilityProperty: true });
const own = (e) => [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim());
const all = [...document.querySelectorAll('body *')].filter((e) => own(e) && shown(e));
return {
  texts: all.length,
  pale: all.filter((e) => contrast(e) < 4.5)
    .map((e) => [e.tagName, e.getAttribute('class'), e.textContent.slice(0, 30), contrast(e)]),
};
"""
# What scripts have added, too; the browser keeps no record of files.
FETCHED = """
const added = [...document.querySelectorAll('[src], link[rel=stylesheet], link[rel=icon]')];
return [...performance.getEntriesByType('resource').map((entry) => entry.name),
        ...added.map((element) => element.src || element.href)];
"""
FIGURES = """
return [...document.querySelectorAll('article img')].map((image) => ({
  name: image.getAttribute('src'), width: image.getBoundingClientRect().width,
  natural: image.naturalWidth, room: image.parentElement.clientWidth,
}));
"""
TYPE = """
const field = document.querySelector('[data-md-component="search-query"]');
document.querySelector('#__search').click();
field.focus();
field.value = arguments_;
field.dispatchEvent(new Event('input', { bubbles: true }));
field.dispatchEvent(new KeyboardEvent('keyup', { bubbles: true }));
"""
RESULTS = """
return [...document.querySelectorAll('.md-search-result__link')].map((link) => link.href);
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    return build(tmp_path_factory.getbasetemp())


@pytest.fixture(scope="module")
def window(tmp_path_factory):
    with browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", PAGES)
def test_all_text_is_legible_in_both_schemes(window, site, name, scheme):
    window.open(site / f"{name}.html", scheme=scheme, ready=READY)
    assert window.run("return getComputedStyle(document.body).colorScheme") == scheme
    window.run("document.querySelectorAll('details').forEach((d) => (d.open = true))")
    found = window.run(PALE)
    assert found["pale"] == []
    assert found["texts"] > 50


@pytest.mark.parametrize("name", PAGES)
@pytest.mark.parametrize("width", [390, 1440])
def test_page_never_scrolls_sideways_and_pictures_fit(window, site, name, width):
    window.open(site / f"{name}.html", width, 844, ready=READY)
    assert window.run("return document.documentElement.scrollWidth") <= width
    assert window.run("return document.body.scrollWidth") <= width
    window.run("document.querySelectorAll('img').forEach((image) => (image.loading = 'eager'))")
    figures = window.run(FIGURES)
    assert all(f["natural"] and 0 < f["width"] <= f["room"] + 1 for f in figures), figures
    assert figures or name not in ("index", "mathematics", "promises/gradients")


@pytest.mark.parametrize("name", PAGES)
def test_nothing_complains_and_nothing_is_fetched_from_elsewhere(window, site, name):
    window.open(site / f"{name}.html", ready=READY)
    fetched = window.run(FETCHED)
    assert len(fetched) > 3
    assert [url for url in fetched if not url.startswith(("file:", "data:"))] == []
    assert window.errors() == []


def test_search_works_without_a_network(window, site):
    window.open(site / "index.html", ready=READY)
    window.run(TYPE.replace("arguments_", "'momentum'"))
    window.wait(f"{RESULTS.strip().removesuffix(';')}.length > 3", seconds=20)
    found = window.run(RESULTS)
    assert all(url.startswith("file:") for url in found)
    assert any("glossary.html" in url and "#momentum" in url for url in found), found
    assert window.errors() == []


def test_the_scheme_can_be_chosen_and_is_kept(window, site):
    window.open(site / "index.html", scheme="light", ready=READY)
    assert window.run("return document.body.dataset.mdColorScheme") == "default"
    try:
        for _ in range(2):  # the system's, light, dark
            window.run(
                "[...document.querySelectorAll('label.md-header__button[for^=__palette]')]"
                ".find((label) => !label.hidden).click()"
            )
        window.open(site / "insert.html", scheme="light", ready=READY)
        assert window.run("return document.body.dataset.mdColorScheme") == "slate"
    finally:
        window.run("localStorage.clear()")
