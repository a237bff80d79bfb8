"""The records in docs/data are what scripts measure; numbers are made from them rightly."""

import json
import math
import statistics

import pytest
import torch
from scipy import stats
from teaching.data import FOLDER, Measurement, load, save, study
from teaching.measure import (
    MEASUREMENTS,
    depth,
    hidden,
    noise,
    placement,
    processor,
    running,
    variance,
)
from teaching.measure.digits import digits
from teaching.numbers import value
from torch import nn

import batchnorm as bn


@pytest.fixture(autouse=True)
def threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("name", MEASUREMENTS)
def test_a_record_says_how_it_was_made(name):
    record = load(name)
    assert record.rows
    assert record.settings == MEASUREMENTS[name].SETTINGS
    assert record.versions["torch"].startswith("2.")


def test_records_are_written_to_be_read_again(tmp_path, monkeypatch):
    monkeypatch.setattr("teaching.data.FOLDER", tmp_path)
    load.cache_clear()
    save("one", {"a": "b"}, [{"x": 1 / 3, "n": 7}, {"x": 2.0, "n": 8}])
    assert load("one") == Measurement(
        {"a": "b"}, load("one").versions, ({"x": 0.333333, "n": 7}, {"x": 2.0, "n": 8})
    )
    assert load("one").one(n=8) == {"x": 2.0, "n": 8}
    assert '  {"x": 2.0, "n": 8}\n' in (tmp_path / "one.json").read_text()
    monkeypatch.undo()
    load.cache_clear()


def test_noise_is_that_of_the_formulas():
    rows = list(noise.rows((4, 64)))
    for row in rows:
        assert row["mean"] == pytest.approx(1 / math.sqrt(row["size"]), rel=0.02)
        assert row["mean"] == pytest.approx(load("noise").one(size=row["size"])["mean"], rel=1e-3)
        assert row["std"] == pytest.approx(load("noise").one(size=row["size"])["std"], rel=1e-3)
    assert rows[1]["std"] == pytest.approx(1 / math.sqrt(128), rel=0.03)


def test_running_statistics_are_those_of_the_record():
    rows = list(running.rows(steps=30))
    for row in rows:
        found = load("running").one(momentum=row["momentum"], step=row["step"])
        assert row["mean"] == pytest.approx(found["mean"], rel=1e-4, abs=1e-5)
        assert row["var"] == pytest.approx(found["var"], rel=1e-4)
    by_hand = statistics.fmean(row["mean"] for row in rows if row["step"] == 0)
    assert by_hand == 0  # of a new layer


def test_errors_of_the_variance_are_those_of_the_record():
    """Within a factor of four: the last digits of a sum differ between machines."""
    for row in variance.rows(ratios=(1.0, 1000.0)):
        found = load("variance").one(way=row["way"], ratio=row["ratio"])["error"]
        assert found / 4 <= row["error"] <= found * 4, row


def test_every_way_computes_the_variance():
    x = torch.randn(4096, 5, generator=torch.Generator().manual_seed(0)) * 3
    for way, var in variance.WAYS.items():
        torch.testing.assert_close(var(x), x.var(0, correction=0), rtol=1e-4, atol=1e-5, msg=way)


def test_ours_stays_exact_in_the_record():
    def worst(way):
        return max(row["error"] for row in load("variance").where(way=way))

    assert worst("batchnorm, layer") < 1e-6
    assert worst("batchnorm, layer, together") < 1e-6
    assert worst("batchnorm, Moments") < 1e-6
    assert worst("E[x²] − E[x]²") > 1e6


def test_growth_is_that_of_the_theory():
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(256, 64, generator=generator), torch.arange(256) % 10
    logs = depth.profile(depth.network("relu", "batch norm", 12, seed=0), x, y)
    assert len(logs) == 12
    assert logs[-1] == 0
    per_layer = math.exp((logs[0] - logs[-1]) / 11)
    assert per_layer == pytest.approx(math.sqrt(math.pi / (math.pi - 1)), rel=0.03)
    level = depth.profile(depth.network("relu", "none", 12, seed=0), x, y)
    assert abs(level[0]) < 1


def test_the_deep_record_is_that_of_its_sentences():
    ends = {
        (row["activation"], row["arm"]): row["error"]
        for row in load("depth").rows
        if row.get("layer") == 1
    }
    assert ends["relu", "batch norm"] > 5000
    assert 0.1 < ends["relu", "none"] < 10
    assert 1 < ends["sigmoid", "batch norm"] < 10
    assert ends["sigmoid", "none"] < 1e-8
    learning = load("depth").where(activation="relu, learning", arm="batch norm")
    assert learning[0]["error"] > 100 > 3 > learning[-1]["error"]


def test_a_profile_is_of_the_errors_of_autograd():
    model = depth.network("tanh", "none", 3, seed=0, width=8)
    x, y = torch.randn(16, 64), torch.arange(16) % 10
    inputs, h = [], x
    for layer in model:
        h = layer(h)
        if isinstance(layer, nn.Linear):
            inputs.append(h)
    grads = torch.autograd.grad(nn.functional.cross_entropy(h, y), inputs[:-1])
    rms = [grad.square().mean().sqrt().item() for grad in grads]
    expected = [math.log(value / rms[-1]) for value in rms]
    assert depth.profile(model, x, y) == pytest.approx(expected, abs=1e-4)


def test_the_places_of_a_hidden_unit():
    rows = list(hidden.rows(steps=3))
    assert len(rows) == hidden.SAMPLES
    column = {name: [row[name] for row in rows] for name in rows[0]}
    assert statistics.fmean(column["standardized"]) == pytest.approx(0, abs=1e-5)
    assert statistics.pstdev(column["standardized"]) == pytest.approx(1, abs=1e-3)
    assert column["relu"] == [max(0.0, v) for v in column["affine"]]
    slope, offset = statistics.linear_regression(column["standardized"], column["affine"])
    assert slope == pytest.approx(1, abs=0.3)
    assert offset == pytest.approx(0, abs=0.3)
    correlation = statistics.correlation(column["linear"], column["standardized"])
    assert correlation == pytest.approx(1, abs=1e-5)


def test_places_of_normalization():
    orders = {
        "none": [nn.Linear, nn.ReLU, nn.Linear],
        "before": [nn.Linear, bn.BatchNorm1d, nn.ReLU],
        "after": [nn.Linear, nn.ReLU, bn.BatchNorm1d],
    }
    for hidden_, order in orders.items():
        children = list(placement.network(hidden_, seed=0))
        assert [type(child) for child in children[:3]] == order
    weights = [placement.network(h, seed=3)[0].weight for h in placement.HIDDEN]
    assert all(torch.equal(weights[0], weight) for weight in weights)


def test_a_rate_is_chosen_by_the_other_seeds():
    found = {(lr, seed): (float(lr == 0.1), 0.0) for lr in placement.RATES for seed in range(3)}
    found[0.3, 0] = (9.0, 0.0)  # its own luck
    assert placement._chosen(found, seed=0, seeds=3) == 0.1
    assert placement._chosen(found, seed=1, seeds=3) == 0.3


def test_one_run_of_the_placements_is_that_of_the_record():
    row = load("placement").one(inputs="standardize", hidden="before", seed=0)
    _, accuracy = placement._run("standardize", "before", row["lr"], 0, placement.STEPS)
    assert accuracy == pytest.approx(row["accuracy"], abs=0.02)


def test_inputs_are_scaled_by_training_data():
    raw, scaled = digits(0, "raw").parts, digits(0, "standardize").parts
    mean, std = raw.train.x.mean(0), raw.train.x.std(0, correction=0)
    varies = std > 0
    expected = ((raw.test.x - mean) / std)[:, varies]
    torch.testing.assert_close(scaled.test.x[:, varies], expected, rtol=1e-4, atol=1e-4)


def test_the_other_processor_has_the_words_of_the_first():
    rows = {row["test"]: row for row in load("processor").rows}
    assert next(processor.of_study(study()))["processor"] != rows["1a"]["processor"]
    for claim in study().claims:
        for test in claim.tests:
            row = rows[test.id]
            assert row["verdict"] == test.headline.verdict
            assert row["low"] <= test.headline.mean <= row["high"]


def test_numbers_of_the_study():
    dead = [
        d.born_dead / d.units
        for d in study().dead_units
        if d.activation == "relu" and d.arm == "none" and d.condition == "best"
    ]
    assert len(dead) == 6
    assert value("dead / none / born_dead") == f"{100 * sum(dead) / 6:.1f} %"
    rates = sorted(s.lr for s in study().stability if (s.activation, s.arm) == ("relu", "none"))
    assert float(value("stable / relu / none")) == pytest.approx(
        (rates[2] + rates[3]) / 2, rel=0.05
    )
    ends = {}
    for point in study().curves:
        if (point.activation, point.arm) == ("relu", "batch norm"):
            ends[point.seed] = point.test_accuracy  # the last one stays
    assert len(ends) == 6
    assert value("accuracy / relu / batch norm") == f"{100 * sum(ends.values()) / 6:.1f} %"


def test_a_gain_has_the_interval_of_a_paired_t_test():
    rows = {
        hidden_: [row["accuracy"] for row in load("placement").where(inputs="raw", hidden=hidden_)]
        for hidden_ in ("before", "none")
    }
    test = stats.ttest_rel(rows["before"], rows["none"])
    interval = test.confidence_interval(0.95)
    words = f"+{100 * interval.low:.1f} to +{100 * interval.high:.1f}"
    assert value("gain / raw / before / none / interval") == words
    mean = statistics.fmean(rows["before"]) - statistics.fmean(rows["none"])
    assert value("gain / raw / before / none") == f"+{100 * mean:.1f} points"


def test_sentences_about_placement_rest_on_the_record():
    assert value("gain / raw / before / none / interval").startswith("+")
    assert value("gain / raw / before / after / interval").startswith("+")
    for pair in ("before / none", "before / after"):
        low, _, high = value(f"gain / standardize / {pair} / interval").partition(" to ")
        assert low.startswith("−")
        assert high.startswith("+")


def test_the_record_of_the_study_is_what_the_report_reads(tmp_path):
    text = (FOLDER / "study" / "results.json").read_text(encoding="utf-8")
    assert json.loads(text)["counts"]["failed"] == 0
    assert not study().partial
