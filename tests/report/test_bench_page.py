import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from batchnorm.records import to_json
from batchnorm.report import render_bench, speeds, write_bench
from batchnorm.report.charts import speed

from . import sample_bench
from .markup import Page, words

BENCHES = (sample_bench.bench, sample_bench.stopped, sample_bench.nothing)


@pytest.fixture(scope="module")
def pages():
    return {build.__name__: render_bench(build()) for build in BENCHES}


@pytest.fixture(scope="module")
def parsed(pages):
    return {name: Page(text) for name, text in pages.items()}


def test_summary_says_how_many_times_faster(parsed):
    assert words(parsed["bench"].with_class("summary")[0]) == (
        "Times faster than PyTorch eager, on average: in float32 BN 3.0x, BN+ReLU 3.0x, "
        "BN+add+ReLU 3.0x, inference BN+ReLU 3.0x."
    )
    nothing = words(parsed["nothing"].with_class("summary")[0])
    assert nothing == "No shape was measured to its end."


def test_banners_are_shown_only_where_they_apply(parsed):
    assert parsed["bench"].with_class("banner") == []
    first, second = map(words, parsed["stopped"].with_class("banner"))
    assert first.startswith("partial. The benchmark was stopped early")
    assert second == (
        "busy. Other programs used 40 % of the processors meanwhile: "
        "take these times for a rehearsal."
    )
    assert len(parsed["nothing"].with_class("banner")) == 1


def test_averages_stand_side_by_side_with_the_worst_shape(parsed):
    rows = [words(e) for e in parsed["bench"].named("tr")]
    assert rows[0] == "whole steps BN BN+ReLU BN+add+ReLU inference BN+ReLU"
    assert rows[1] == "ours faster than PyTorch eager" + 4 * " 3.0x (1.3x)"
    large = "our kernel alone over the floor, larger than the last-level cache 3.0x (1.3x) – – –"
    assert large in rows


def test_every_average_names_its_worst_shape(parsed):
    rows = [words(e) for e in parsed["bench"].named("tr")]
    wanted = "BN, float32 both ours faster than PyTorch eager all 7 3.0x 1.3x 64×100 contiguous"
    assert wanted in rows


def test_every_time_stands_in_a_table(parsed):
    rows = [words(e) for e in parsed["bench"].named("tr")]
    row = next(row for row in rows if row.startswith("32×256×14×14 cl both 0.404 "))
    # copy 0.1616, floor 2.5 of it, eager 5 floors and 0.05: 2.07; ours a third of it
    assert row == (
        "32×256×14×14 cl both 0.404 0.690 ±5 % 1.7x 3.0x 9e-7 0.517 ±5 % 1.3x "
        "2.07 ±5 % 3e-7 1.22 ±5 % 5e-7 3.45 ±5 % 2e-7"
    )
    assert any(row.startswith("64×100 fwd") and "– – –" in row for row in rows)


def test_what_was_not_measured_says_why(parsed):
    assert f"oneDNN: {sample_bench.WHY} (4 cells)" in words(parsed["bench"].named("body")[0])


def test_page_says_where_it_ran(parsed):
    text = words(parsed["bench"].named("body")[0])
    assert "Imagined 9000, 2 threads, PyTorch 2.13.0" in text
    assert "used by others 2 % of the processors" in text
    assert "wall time 5 min 12 s" in text


def test_a_gpu_is_named_and_its_columns_are_explained():
    page = Page(render_bench(sample_bench.gpu()))
    text = words(page.named("body")[0])
    assert "Imagined GPU, PyTorch 2.13.0" in text
    assert "“host ms” is what it takes to ask for the work" in text
    rows = [words(e) for e in page.named("tr")]
    # copy 2.57 ms: floor 2.5 of it, eager 5 floors, ours a third; 8 passes instead of 5
    wanted = (
        "32×64×112×112 both 6.43 10.7 ±5 % 0.500 96 % 3.0x 9e-7 8.04 ±5 % 128 % "
        "32.2 ±5 % 0.500 32 % cuDNN 3e-7"
    )
    assert any(row.startswith(wanted) for row in rows)
    assert "256×3×224×224 cl both 100 ±5 % 1.5x 150 ±5 %" in rows
    assert "training step of ResNet-50" in text


def test_a_processor_has_no_columns_of_a_gpu(parsed):
    text = words(parsed["bench"].named("body")[0])
    assert "host ms" not in text
    assert "% copy" not in text


def test_page_points_to_nothing_outside_itself(parsed):
    for page in parsed.values():
        for element in page.tags:
            for name, value in element["attributes"].items():
                assert not name.startswith("on")
                if name in ("src", "href"):
                    assert value.startswith(("#", "data:"))


def test_text_from_the_file_never_becomes_markup(pages, parsed):
    assert sample_bench.ATTACK not in pages["stopped"]
    assert sample_bench.ATTACK in parsed["stopped"].named("body")[0]["text"]


def test_charts_show_whole_steps_of_those_who_were_measured():
    figures = {figure.id: figure for figure in speed.figures(sample_bench.bench())}
    assert list(figures) == ["faster", "floor", "errors"]
    assert {row["key"] for row in figures["faster"].rows} == {"ours", "onednn", "compile"}
    assert {row["key"] for row in figures["floor"].rows} == {"ours", "kernel", "eager", "onednn"}
    assert {row["panel"] for row in figures["errors"].rows} == set(speeds.OPERATIONS.values())
    # three shapes in two layouts and one in one, for each operation; no oneDNN for the latter
    assert len(figures["faster"].rows) == 4 * (7 + 6 + 7)
    ours = [r for r in figures["faster"].rows if (r["key"], r["panel"]) == ("ours", "BN")]
    assert [row["value"] for row in ours] == [pytest.approx(3.0)] * 7
    for figure in figures.values():
        assert figure.spec["data"] == {"name": "rows"}
        assert "http" not in str(figure.spec)


def test_the_cache_is_drawn_where_something_is_larger():
    def rules(result):
        layers = speed.over_floor(result).spec["spec"]["layer"]
        return [x["encoding"] for x in layers if x["mark"]["type"] == "rule"]

    assert rules(sample_bench.bench()) == [
        {"y": {"datum": 1.0}},
        {"x": {"datum": 32 * 2**20 / 1e6}},
    ]
    assert rules(sample_bench.stopped()) == [{"y": {"datum": 1.0}}]


def test_without_rows_there_is_a_sentence_in_place_of_each_chart(parsed):
    sentences = [words(e) for e in parsed["nothing"].with_class("missing")]
    assert "There is nothing to draw of: Times the floor." in sentences


def test_a_row_without_error_is_said_not_to_be_finite():
    row = sample_bench.timing((64, 100), "contiguous", "bn", "both", "eager")
    values = {name: getattr(row, name) for name in row.__dataclass_fields__}
    assert speeds.error(type(row)(**{**values, "error": None})) == "not finite"
    assert speeds.error(type(row)(**{**values, "error": float("nan")})) == "not finite"
    assert speeds.error(row) == "3e-7"


def test_a_page_is_drawn_from_the_saved_json_without_torch(tmp_path, pages):
    result = sample_bench.bench()
    (tmp_path / "bench.json").write_text(to_json(result), encoding="utf-8")
    code = (
        "import sys; from batchnorm.cli import run; code = run(['report', 'bench.json']);"
        "assert 'torch' not in sys.modules, 'torch was imported'; sys.exit(code)"
    )
    env = {**os.environ, "PYTHONHASHSEED": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, env=env
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "bench.html").read_text(encoding="utf-8") == pages["bench"]
    assert "BN+ReLU, float32" in done.stdout
    assert "saved: bench.html" in done.stdout


def test_write_replaces_the_file(tmp_path, pages):
    path = tmp_path / "bench.html"
    path.write_text("before")
    write_bench(sample_bench.stopped(), path)
    assert path.read_text(encoding="utf-8") == pages["stopped"]
    assert [p.name for p in Path(tmp_path).iterdir()] == ["bench.html"]


def test_data_of_the_charts_is_json(parsed):
    (data,) = [e for e in parsed["bench"].tags if e["attributes"].get("id") == "figures"]
    assert set(json.loads(data["text"])) == {"faster", "floor", "errors"}
