import dataclasses
import hashlib
import itertools
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from batchnorm import records
from batchnorm.report import render, write

from . import sample
from .markup import Page, words

STUDIES = (sample.study, sample.one_cell, sample.empty, sample.hostile)


@pytest.fixture(scope="module")
def pages():
    return {build.__name__: render(build()) for build in STUDIES}


@pytest.fixture(scope="module")
def parsed(pages):
    return {name: Page(text) for name, text in pages.items()}


def test_page_shows_one_card_per_claim(parsed):
    for page in parsed.values():
        assert len(page.with_class("card")) == 5


def test_card_shows_effect_interval_and_seeds_of_each_test(parsed):
    card = words(parsed["study"].with_class("card")[2])
    assert "3a Largest stable learning rate supported 5.7x 5.1x to 6.3x, 6 seeds" in card
    assert "3b Steps to the same accuracy supported" in card
    assert "When it does not hold A rate that is allowed need not be useful" in card


def test_card_shows_points_and_the_seeds_that_were_measured(parsed):
    card = words(parsed["study"].with_class("card")[4])
    assert "inconclusive +0.5 points −0.8 to +1.7, 5 of 6 seeds" in card


def test_card_says_what_a_verdict_depends_on(parsed):
    card = words(parsed["study"].with_class("card")[1])
    assert "depends on activation: sigmoid supports it, relu contradicts it." in card


def test_summary_counts_verdicts(parsed):
    found = {name: words(page.with_class("summary")[0]) for name, page in parsed.items()}
    assert (
        found["study"] == "5 of 7 tests support their claim, 1 contradicts it, 1 is inconclusive."
    )
    assert found["one_cell"] == "None of 7 tests has a verdict: the study is exploratory."


def test_explanation_names_only_the_arms_that_were_run(parsed):
    named = {name: words(page.with_class("prose")[0]) for name, page in parsed.items()}
    assert "PyTorch default init" in named["study"]
    assert "PyTorch default init" not in named["one_cell"]


def test_banners_are_shown_only_where_they_apply(parsed):
    assert parsed["study"].with_class("banner") == []
    first, second = map(words, parsed["one_cell"].with_class("banner"))
    assert first.startswith("partial: 61 of 180 trials.")
    assert second.startswith("exploratory: no verdict.")


def test_every_test_has_a_table_of_its_cells(parsed):
    tables = parsed["study"].with_class("results")
    assert len(tables) == 7
    row = words(tables[0])
    assert "headline supported 8.6x 6.2x to 12x 6 seeds 6 of 6 0.031 0.219 6.9" in row
    assert "relu, matched" in row


def test_every_chart_has_a_caption_a_description_and_its_data(parsed):
    page = parsed["study"]
    charts = page.with_class("chart")
    assert len(charts) == 14
    for chart, plot in zip(charts, page.with_class("plot"), strict=True):
        assert "Data of this chart" in words(chart)
        assert plot["attributes"]["role"] == "img"
        assert len(plot["attributes"]["aria-label"]) > 20


def test_long_data_tables_say_that_they_are_cut(parsed):
    text = words(parsed["study"].named("main")[0])
    assert "Runs: 60 of 348 rows, evenly spaced; all of them are in results.json" in text


def test_missing_evidence_is_said_in_words(parsed):
    page = parsed["empty"]
    assert page.with_class("chart") == []
    said = " ".join(map(words, page.with_class("missing")))
    for sentence in (
        "Drift of the activations' inputs: not measured in this study.",
        "No run of the learning rate grid has finished.",
        "Dead units were not counted in this study.",
        "No learning rate was chosen.",
    ):
        assert sentence in said


@pytest.mark.parametrize("name", sample.EVIDENCE)
def test_page_can_do_without_any_kind_of_evidence(name):
    page = Page(render(dataclasses.replace(sample.one_cell(), **{name: ()})))
    assert len(page.with_class("card")) == 5


@pytest.mark.parametrize("value", [None, float("nan"), float("inf")])
def test_numbers_that_are_missing_do_not_stop_the_page(value):
    whole = sample.one_cell()
    spoiled = {
        "drifts": ("drift", "gradient_shift", "gradient_cosine", "train_loss"),
        "profiles": ("input_rms", "error_rms"),
        "curves": ("val_accuracy", "test_accuracy"),
        "gaps": ("gap", "final_gap", "matched_loss"),
        "runs": ("test_accuracy", "train_loss"),
        "stability": ("lr",),
        "dead_units": ("saturated",),
    }
    changed = {
        name: tuple(
            dataclasses.replace(record, **dict.fromkeys(fields, value))
            for record in getattr(whole, name)
        )
        for name, fields in spoiled.items()
    }
    Page(render(dataclasses.replace(whole, **changed)))


def test_page_without_claims_says_so():
    page = Page(render(dataclasses.replace(sample.empty(), claims=())))
    assert words(page.with_class("summary")[0]) == "No test was carried out."


def test_settings_versions_cost_and_failures_are_shown(parsed):
    text = words(parsed["study"].named("main")[0])
    assert "network MLP, 10 hidden layers of 100 units" in text
    assert "sigmoid, without BN 0.03" in text
    assert "torch 2.13.0" in text
    assert "relu without BN, PyTorch default init 84 37,800 2 min 10 s" in text
    assert "relu, default init, 0.3, seed 4: RuntimeError: out of memory" in text
    assert "wall time 4 min 12 s" in text


def test_text_of_the_user_never_becomes_markup(pages, parsed):
    def shape(page):
        return [(e["tag"], sorted(e["attributes"])) for e in page.tags]

    assert shape(parsed["hostile"]) == shape(parsed["one_cell"])
    assert sample.ATTACK not in pages["hostile"]
    assert sample.ATTACK in parsed["hostile"].named("title")[0]["text"]


def test_page_points_to_nothing_outside_itself(parsed):
    for page in parsed.values():
        for element in page.tags:
            for name, value in element["attributes"].items():
                assert not name.startswith("on")
                if name in ("src", "href", "srcset", "action", "data", "poster", "xlink:href"):
                    assert value.startswith(("#", "data:"))
        for style in page.named("style"):
            assert not re.search(r"url\(|@import|https?:", style["text"])
        assert page.named("iframe", "object", "embed", "base") == []


def test_page_asks_the_browser_to_allow_no_connection(parsed):
    policy = parsed["study"].named("meta")[1]["attributes"]["content"]
    assert policy.startswith("default-src 'none';")


def test_links_inside_the_page_lead_somewhere(parsed):
    for page in parsed.values():
        ids = [e["attributes"]["id"] for e in page.tags if "id" in e["attributes"]]
        assert len(ids) == len(set(ids))
        targets = {e["attributes"].get("href", "") for e in page.named("a", "use")}
        assert {t[1:] for t in targets if t.startswith("#")} <= set(ids)


def test_headings_skip_no_level(parsed):
    for page in parsed.values():
        levels = [int(e["tag"][1]) for e in page.named("h1", "h2", "h3", "h4", "h5", "h6")]
        assert levels[0] == 1
        assert all(after - before <= 1 for before, after in itertools.pairwise(levels))


def test_page_stays_small(pages):
    assert len(pages["study"].encode()) < 2_000_000
    assert len(pages["empty"].encode()) < 100_000  # nothing to draw: no drawing library


def test_drawing_library_is_there_once(pages):
    assert pages["study"].count("window.vegaEmbed=") == 1


def test_embedded_json_holds_every_chart(parsed):
    page = parsed["hostile"]
    (data,) = (e["text"] for e in page.named("script") if "id" in e["attributes"])
    names = {plot["attributes"]["data-figure"] for plot in page.with_class("plot")}
    assert set(json.loads(data)) == names


def test_result_read_back_from_json_renders_the_same(pages):
    text = records.to_json(sample.study())
    assert render(records.from_json(records.StudyResult, text)) == pages["study"]


def test_rendering_is_the_same_in_every_process(pages):
    code = (
        "import hashlib, sys; from report import sample; from batchnorm.report import render; "
        "text = render(sample.study()); assert 'torch' not in sys.modules; "
        "print(hashlib.sha256(text.encode()).hexdigest())"
    )
    wanted = hashlib.sha256(pages["study"].encode()).hexdigest()
    for seed in ("1", "2"):
        found = subprocess.run(
            [sys.executable, "-c", code],
            cwd=Path(__file__).parents[1],
            env={**os.environ, "PYTHONHASHSEED": seed},
            check=True,
            capture_output=True,
            text=True,
        )
        assert found.stdout.strip() == wanted


def test_write_replaces_the_file_and_leaves_nothing_else(tmp_path, pages):
    path = tmp_path / "report.html"
    path.write_text("old")
    write(sample.empty(), path)
    assert path.read_text(encoding="utf-8") == pages["empty"]
    assert list(tmp_path.iterdir()) == [path]
