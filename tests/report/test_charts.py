import dataclasses

import pytest

from batchnorm.report.charts import figures, style
from batchnorm.report.charts.figure import MAX_ROWS

from . import sample


@pytest.fixture(scope="module")
def drawn():
    result = sample.study()
    return {figure.id: figure for number in range(1, 6) for figure in figures(number, result)}


def test_every_kind_of_chart_is_drawn(drawn):
    assert list(drawn) == [
        "percentiles-0",
        "percentiles-1",
        "drift",
        "gradient-shift",
        "gradient-cosine",
        "error-rms",
        "input-rms",
        "accuracy-by-rate",
        "stable-rates",
        "training-curves",
        "dead-units",
        "saturation",
        "gap-by-seed",
        "gap-by-virtual-batch",
    ]


def test_a_chart_names_no_address_and_takes_its_data_from_the_page(drawn):
    for figure in drawn.values():
        assert figure.spec["data"] == {"name": "rows"}
        assert "http" not in str(figure.spec)


def test_arms_differ_in_color_dash_and_mark(drawn):
    layers = drawn["drift"].spec["spec"]["layer"]
    for channel in ("color", "strokeDash", "shape"):
        scale = next(x["encoding"][channel]["scale"] for x in layers if channel in x["encoding"])
        assert scale["domain"] == ["without BN", "with BN"]
        assert scale["range"][0] != scale["range"][1]


def test_data_table_is_cut_to_a_readable_length(drawn):
    table = drawn["drift"].table
    assert len(table.rows) == MAX_ROWS
    assert table.total == len(sample.drifts())


def test_zero_is_left_out_of_a_logarithmic_axis_and_said(drawn):
    figure = drawn["error-rms"]
    assert all(row["value"] > 0 for row in figure.rows)
    assert figure.caption.endswith(
        "12 values are exactly 0, too small for this axis; they are in the data."
    )


def test_diverged_runs_stand_below_the_axis_one_line_per_arm(drawn):
    rows = [row for row in drawn["accuracy-by-rate"].rows if row["diverged"]]
    heights = {row["key"]: row["height"] for row in rows}
    assert len(rows) == sum(
        run.status == "diverged" and run.stage == "grid" for run in sample.runs()
    )
    assert len(set(heights.values())) == len(heights)
    assert max(heights.values()) < 0


def test_failed_and_later_runs_are_not_in_the_grid_chart():
    run = sample.runs()[0]
    others = (
        dataclasses.replace(run, status="failed"),
        dataclasses.replace(run, stage="probe"),
    )
    chart = figures(3, dataclasses.replace(sample.empty(), runs=(run, *others)))[0]
    assert len(chart.rows) == 1


def test_search_that_found_no_stable_rate_is_said(drawn):
    figure = drawn["stable-rates"]
    assert figure.caption.endswith("Not shown: 1 search that found no stable rate.")
    cells = [row for row in figure.table.rows if row[3] == "none"]
    assert cells == [("sigmoid", "without BN, PyTorch default init", "0", "none")]


def test_rate_with_a_bound_says_so(drawn):
    rates = {row[3] for row in drawn["stable-rates"].table.rows if row[1:3] == ("with BN", "1")}
    assert all(rate.startswith("at least ") for rate in rates)


def test_virtual_batches_are_in_order_of_size(drawn):
    x = drawn["gap-by-virtual-batch"].spec["spec"]["layer"][0]["encoding"]["x"]
    assert x["sort"] == ["4", "8", "16", "32", "whole batch"]


def test_data_for_the_script_writes_each_word_once(drawn):
    column = drawn["drift"].data()["columns"]["arm"]
    assert column["words"] == ["without BN", "with BN"]
    assert len(column["at"]) == len(drawn["drift"].rows)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ((1.0, 1e4), "format(datum.value, ',~g')"),
        ((1e-9, 1e-2), style._POWER),
        ((1e-7, 1e-6), "replace(format(datum.value, '.0e'), '−', '-')"),
    ],
    ids=["plain", "powers", "parts of powers"],
)
def test_labels_of_a_logarithmic_axis_say_its_ticks(values, expected):
    axis = style.logarithmic([{"value": value} for value in values], "error").to_dict()["axis"]
    assert axis["labelExpr"] == expected
    is_power = [f"{tick:e}".startswith("1.000000e") for tick in axis["values"]]
    assert all(is_power) or expected != style._POWER
