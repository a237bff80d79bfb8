import base64
import csv
import dataclasses
import gzip
import io

from batchnorm import records
from batchnorm.report import render

from . import sample
from .markup import Page


def downloads(result):
    links = Page(render(result)).named("a")
    return {
        link["attributes"]["download"]: base64.b64decode(
            link["attributes"]["href"].partition(";base64,")[2]
        )
        for link in links
        if "download" in link["attributes"]
    }


def test_csv_holds_every_run():
    result = sample.empty()
    runs = sample.runs()
    content = downloads(dataclasses.replace(result, runs=runs))["runs.csv"].decode()
    rows = list(csv.DictReader(io.StringIO(content, newline="")))
    assert len(rows) == len(runs)
    assert list(rows[0]) == [field.name for field in dataclasses.fields(records.Run)]
    for row, run in zip(rows, runs, strict=True):
        assert row["arm"] == run.arm
        assert float(row["lr"]) == run.lr
        assert (float(row["test_accuracy"]) if row["test_accuracy"] else None) == run.test_accuracy


def test_csv_text_is_never_a_formula():
    runs = tuple(
        dataclasses.replace(sample.runs()[0], activation=start + "cmd()") for start in "=+-@\t\r\n"
    )
    content = downloads(dataclasses.replace(sample.empty(), runs=runs))["runs.csv"].decode()
    cells = [row["activation"] for row in csv.DictReader(io.StringIO(content, newline=""))]
    assert cells == ["'" + run.activation for run in runs]


def test_negative_numbers_stay_numbers_in_the_csv():
    run = dataclasses.replace(sample.runs()[0], test_loss=-1.5)
    content = downloads(dataclasses.replace(sample.empty(), runs=(run,)))["runs.csv"].decode()
    (row,) = csv.DictReader(io.StringIO(content, newline=""))
    assert row["test_loss"] == "-1.5"


def test_results_read_back_from_the_page_are_the_result():
    result = sample.one_cell()
    text = gzip.decompress(downloads(result)["results.json.gz"]).decode()
    assert records.from_json(records.StudyResult, text) == result
