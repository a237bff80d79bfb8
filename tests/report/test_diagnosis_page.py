"""The page of a diagnosis."""

import math
import os
import subprocess
import sys

import pytest

from batchnorm import records
from batchnorm.records import Measure
from batchnorm.report import heat, render_diagnosis, sketches, write_diagnosis

from . import sample_diagnosis
from .markup import Page, words

SAMPLES = ("diagnosis", "healthy", "without_layers", "large", "odd")


@pytest.fixture(scope="module")
def pages():
    return {name: render_diagnosis(getattr(sample_diagnosis, name)()) for name in SAMPLES}


@pytest.fixture(scope="module")
def parsed(pages):
    return {name: Page(text) for name, text in pages.items()}


def test_the_verdict_comes_first(parsed):
    page = parsed["diagnosis"]
    assert words(page.with_class("summary")[0]) == sample_diagnosis.diagnosis().verdict
    assert words(page.named("h1")[0]) == "Batch normalization of Net"


def test_findings_of_one_rule_stand_together(parsed):
    found = [words(e) for e in parsed["diagnosis"].with_class("finding")]
    assert len(found) == 3
    assert found[0].startswith("error stem.1 was never updated eval() computes another function")
    assert "Do bn.recalibrate(model, batches)" in found[0] and "A 2021" in found[0]
    assert found[1].startswith("warning the network samples leak")
    text = words(parsed["diagnosis"].named("body")[0])
    assert "The same in 1 more block.bn was never updated" in text
    assert "The same in 99 more" in words(parsed["large"].named("body")[0])


def test_the_strip_has_a_column_for_each_layer_and_a_row_for_each_quantity(parsed):
    (strip,) = parsed["diagnosis"].with_class("heat")
    rows = strip["text"].split("\n")
    assert [r.strip() for r in rows if r.strip()][1].startswith("running mean")
    heads = [words(e) for e in parsed["diagnosis"].named("th") if "title" in e["attributes"]]
    assert heads[:4] == ["running mean", "effective batch", "output", "dead units"]
    cells = parsed["diagnosis"].with_class("judged")
    shares = [cell["attributes"]["style"] for cell in cells[:3]]
    halfway = round(100 * math.log(0.5 / 0.05) / math.log(1.0 / 0.05))
    assert shares == [f"--share: {halfway}%", "--share: 100%", "--share: 0%"]
    assert [words(cell) for cell in cells[:3]] == ["0.50 sd", "1.0 sd", "0.010 sd"]
    assert len(parsed["diagnosis"].with_class("missing-cell")) == 4 + 1
    assert cells[0]["attributes"]["title"] == "stem.1: 0.50 sd"


def test_what_is_not_judged_is_drawn_from_the_smallest_to_the_largest(parsed):
    cells = parsed["diagnosis"].with_class("plain")
    assert [cell["attributes"]["style"] for cell in cells] == [
        "--share: 50%", "--share: 0%", "--share: 100%",
    ]  # fmt: skip


def test_the_worst_layers_are_opened(parsed):
    opened = [e for e in parsed["diagnosis"].named("article") if "id" in e["attributes"]]
    assert [words(e).split()[1] for e in opened] == ["block.bn", "stem.1"]
    folded = [e for e in parsed["diagnosis"].named("details") if "id" in e["attributes"]]
    assert [e["attributes"]["id"] for e in folded] == ["layer-3", "layer-4"]
    assert [e["attributes"]["id"] for e in parsed["healthy"].named("article")] == ["layer-1"]
    assert len([e for e in parsed["large"].named("article") if "id" in e["attributes"]]) == 4


def test_every_layer_can_be_reached(parsed):
    for page in parsed.values():
        ids = [e["attributes"]["id"] for e in page.tags if "id" in e["attributes"]]
        assert len(ids) == len(set(ids))
        links = [e["attributes"]["href"][1:] for e in page.named("a")
                 if e["attributes"].get("href", "").startswith("#")]  # fmt: skip
        assert set(links) <= set(ids)


def test_numbers_of_the_network(parsed):
    rows = [words(e) for e in parsed["diagnosis"].named("tr")]
    assert "train/eval gap 1.2 sd Difference." in rows
    assert not any(row.startswith("loss gap") for row in rows)


def test_a_model_without_layers_has_a_page(parsed):
    text = words(parsed["without_layers"].named("body")[0])
    assert "There is no batch normalization in this model" in text
    assert parsed["without_layers"].with_class("heat") == []


def test_nothing_a_user_wrote_becomes_markup(pages, parsed):
    assert "<script>alert" not in pages["odd"]
    scripts = parsed["odd"].named("script")
    assert len(scripts) == len(parsed["healthy"].named("script"))


def test_page_points_to_nothing_outside_itself(parsed):
    for page in parsed.values():
        for element in page.tags:
            for name, value in element["attributes"].items():
                assert not name.startswith("on")
                if name in ("src", "href"):
                    assert value.startswith(("#", "data:"))


def test_same_diagnosis_gives_same_bytes_also_from_json(pages):
    text = records.to_json(sample_diagnosis.diagnosis())
    again = records.from_json(records.DiagnosisResult, text)
    assert render_diagnosis(again) == pages["diagnosis"]


def test_written_whole_or_not_at_all(tmp_path):
    write_diagnosis(sample_diagnosis.healthy(), tmp_path / "page.html")
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]
    with pytest.raises(OSError, match="No such file"):
        write_diagnosis(sample_diagnosis.healthy(), tmp_path / "none" / "page.html")


def test_torch_is_not_needed(tmp_path):
    saved = tmp_path / "d.json"
    saved.write_text(records.to_json(sample_diagnosis.diagnosis()))
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from pathlib import Path\n"
        "from batchnorm.records import DiagnosisResult, from_json\n"
        "from batchnorm.report import write_diagnosis\n"
        f"result = from_json(DiagnosisResult, Path({str(saved)!r}).read_text())\n"
        f"write_diagnosis(result, Path({str(tmp_path / 'd.html')!r}))\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ)
    assert (tmp_path / "d.html").read_text() == render_diagnosis(sample_diagnosis.diagnosis())


@pytest.mark.parametrize(
    ("value", "expected"), [(1.0, 0.0), (2.0, 0.5), (3.0, 1.0), (9.0, 1.0), (-5.0, 0.0)]
)
def test_linear_heat(value, expected):
    assert heat.heat(value, Measure("", "", "", "", "", 1.0, 3.0)) == expected
    assert heat.heat(value, Measure("", "", "", "", "", 3.0, 1.0)) == 1.0 - expected


def test_heat_of_what_cannot_be_judged():
    measure = Measure("", "", "", "", "", 1.0, 3.0)
    assert heat.heat(math.nan, measure) is None
    assert heat.heat(2.0, Measure("", "", "", "", "")) is None


def test_histogram_is_drawn_to_scale():
    histogram = sample_diagnosis.layer("", 1, 1, 1, 1).histogram
    shape = sketches.shape(histogram)
    points = [tuple(map(float, point.split(","))) for point in shape.inference.split()]
    assert len(points) == 16
    heights = [sketches.HEIGHT - y for _, y in points[::2]]
    assert heights[0] / heights[1] == pytest.approx(0.5 / 0.2, rel=0.01)
    assert max(heights) < sketches.HEIGHT
    assert shape.zero == sketches.WIDTH * 2 / 8
    assert shape.clipped == "50 %"
    assert sketches.shape(None) is None


def test_channels_are_drawn_to_scale():
    drawn = sketches.channels(sample_diagnosis.layer("", 1, 1, 1, 1))
    assert drawn.limit == "1.0"
    middle, half = sketches.SIDE / 2, sketches.SIDE / 2 - sketches.MARGIN
    assert drawn.dots[0] == (middle - half, round(middle - 0.2 * half, 1))
    assert len(drawn.dots) == 3
    assert sketches.channels(sample_diagnosis.layer("", 1, 1, 1, 1, histogram=False)) is None
