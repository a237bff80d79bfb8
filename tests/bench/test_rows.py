"""The arithmetic: floors, ratios and means, by hand."""

import math

import pytest

from batchnorm.bench.case import OPERATIONS
from batchnorm.bench.plan import make_plan
from batchnorm.bench.rows import floor_ms, geometric_mean, means, steps, timings


def cell(operation="bn+relu", shape="2,3,4,5", layout="contiguous", dtype="float32"):
    (case,) = make_plan(
        shapes=[shape], layouts=[layout], operations=[operation], dtypes=[dtype]
    ).cases()
    return case


def step(forward, backward):
    return {"forward": [forward], "backward": [backward], "both": [forward + backward]}


def measured(ours=(0.004, 0.008), eager=(0.012, 0.012), copy=0.002, shape="2,3,4,5", **rest):
    samples = {"copy": {"forward": [copy]}, "ours": step(*ours), "eager": step(*eager)}
    samples |= {name: step(*seconds) for name, seconds in rest.items()}
    errors = {name: {"forward": 1e-7, "backward": 2e-7, "both": 2e-7} for name in samples}
    return timings(cell(shape=shape), samples, errors, {"onednn": "no layout"})


def of(rows, variant, phase):
    (row,) = [row for row in rows if (row.variant, row.phase) == (variant, phase)]
    return row


def test_floor():
    assert floor_ms(4.0, 2) == 4.0
    assert floor_ms(4.0, 3) == 6.0
    assert floor_ms(4.0, 7) == 14.0


def test_a_row_stands_beside_floor_and_eager():
    row = of(measured(), "ours", "both")
    assert (row.ms, row.floor_ms) == (12.0, 5.0)  # 5 passes of 2 ms for 2
    assert row.over_floor == pytest.approx(12 / 5)
    assert row.over_eager == pytest.approx(2.0)
    assert (row.error, row.repetitions, row.missing) == (2e-7, 1, "")
    assert (row.shape, row.layout, row.dtype) == ((2, 3, 4, 5), "contiguous", "float32")
    assert row.megabytes == 480e-6


def test_phases_have_their_own_floor_and_eager():
    rows = measured()
    assert of(rows, "ours", "forward").over_eager == pytest.approx(3.0)
    assert of(rows, "ours", "forward").over_floor == pytest.approx(2.0)
    assert of(rows, "ours", "backward").over_eager == pytest.approx(1.5)
    assert of(rows, "ours", "backward").over_floor == pytest.approx(8 / 3, rel=1e-5)
    assert of(rows, "eager", "backward").over_eager == 1.0


def test_quartiles_in_milliseconds():
    samples = {"copy": {"forward": [1.0, 2.0, 3.0, 4.0, 5.0]}}
    (row, *_) = timings(cell("inference"), samples, {}, {})
    assert (row.low_ms, row.ms, row.high_ms, row.repetitions) == (2000.0, 3000.0, 4000.0, 5)
    assert row.best_ms == 1000.0
    assert (row.floor_ms, row.over_floor, row.over_eager, row.error) == (None,) * 4


def test_what_was_not_measured_says_why_in_every_phase():
    rows = [row for row in measured() if row.variant == "onednn"]
    assert [row.phase for row in rows] == ["forward", "backward", "both"]
    assert {(row.ms, row.over_floor, row.missing) for row in rows} == {(None, None, "no layout")}


def test_geometric_mean():
    assert geometric_mean([4.0]) == pytest.approx(4.0)
    assert geometric_mean([1.0, 8.0, 27.0]) == pytest.approx(6.0)
    assert geometric_mean([3.0, 1 / 3]) == pytest.approx(1.0)


def mean_of(found, variant, against, phase="both", group="all"):
    (mean,) = [
        m
        for m in found
        if (m.variant, m.against, m.phase, m.group) == (variant, against, phase, group)
    ]
    return mean


def test_means_over_the_shapes():
    rows = measured(eager=(0.012, 0.012)) + measured(eager=(0.048, 0.048), shape="9,3")
    mean = mean_of(means(rows, None), "ours", "eager")
    assert mean.ratio == pytest.approx(4.0)  # of 2 and 8
    assert (mean.worst, mean.worst_at, mean.cells) == (2.0, "2×3×4×5 contiguous", 2)
    assert (mean.operation, mean.dtype) == ("bn+relu", "float32")


def test_against_the_floor_the_worst_is_the_largest():
    rows = measured(copy=0.002) + measured(copy=0.008, shape="9,3")
    mean = mean_of(means(rows, None), "ours", "floor")
    assert mean.ratio == pytest.approx(1.2)  # of 12/5 and 12/20
    assert (mean.worst, mean.worst_at) == (pytest.approx(2.4), "2×3×4×5 contiguous")


def test_a_rival_that_is_missing_somewhere_is_compared_where_it_is_there():
    rows = measured() + measured(shape="9,3", compile=(0.001, 0.002))
    found = means(rows, None)
    mean = mean_of(found, "ours", "compile")
    assert (mean.cells, mean.ratio) == (1, pytest.approx(0.25))
    assert not [m for m in found if "onednn" in (m.variant, m.against)]


def test_means_by_size():
    sizes = {
        "10,25000": "1 MB to the cache",
        "10,24999": "under 1 MB",
        "10,50001": "over the cache",
    }
    rows = [row for shape in sizes for row in measured(shape=shape)]
    found = [m for m in means(rows, 2_000_000) if (m.variant, m.phase) == ("ours", "both")]
    groups = {m.group: m.worst_at for m in found if m.against == "floor" and m.group != "all"}
    assert groups == {
        name: f"{shape.replace(',', '×')} contiguous" for shape, name in sizes.items()
    }


def test_without_a_known_cache_there_is_one_group():
    assert {mean.group for mean in means(measured(), None)} == {"all"}


def test_dtypes_are_not_mixed():
    both = [*measured()]
    samples = {"copy": {"forward": [0.1]}, "ours": step(1.0, 1.0), "eager": step(3.0, 3.0)}
    errors = {name: {"forward": 0.0, "backward": 0.0, "both": math.nan} for name in samples}
    both += timings(cell(dtype="bfloat16"), samples, errors, {})
    found = [m for m in means(both, None) if (m.against, m.phase) == ("eager", "both")]
    assert {m.dtype: m.ratio for m in found} == {
        "float32": pytest.approx(2.0),
        "bfloat16": pytest.approx(3.0),
    }


def test_the_share_of_the_copy_s_bandwidth_counts_what_has_to_be_moved():
    """Ours takes 12 ms, a copy 2 ms for two passes: 1 ms a pass."""
    samples = {"copy": {"forward": [0.002]}, "ours": step(0.004, 0.008)}
    errors = {"ours": {"forward": 0.0, "backward": 0.0, "both": 0.0}}
    expected = {
        ("bn+relu", None): 5 / 12,
        ("bn+relu", 480): 5 / 12,
        ("bn+relu", 479): 8 / 12,
        ("bn+add+relu", 480): 7 / 12,
        ("bn+add+relu", 479): 10 / 12,
    }
    for (operation, cache), share in expected.items():
        rows = timings(cell(operation), samples, errors, {}, cache_bytes=cache)
        assert of(rows, "ours", "both").copy_share == pytest.approx(share, rel=1e-5)
        assert of(rows, "copy", "copy").copy_share is None


def test_the_host_s_time_and_who_serves_stand_in_the_row():
    samples = {
        "copy": {"forward": [0.002]},
        "eager": {**step(0.004, 0.008), "forward, host": [0.003, 0.001, 0.002]},
    }
    errors = {"eager": {"forward": 0.0, "backward": 0.0, "both": 0.0}}
    rows = timings(cell(), samples, errors, {}, {"eager": "cuDNN"})
    assert of(rows, "eager", "forward").host_ms == pytest.approx(2.0)
    assert of(rows, "eager", "backward").host_ms is None
    assert of(rows, "eager", "both").by == "cuDNN"


def test_a_network_has_neither_floor_nor_error():
    samples = {"ours": {"forward": [0.1, 0.3, 0.2]}, "eager": {"forward": [0.3]}}
    rows = steps(cell(), samples, {"compile": "no memory"})
    ours = of(rows, "ours", "both")
    assert (ours.ms, ours.host_ms, ours.over_eager) == (200.0, None, 1.5)
    assert (ours.floor_ms, ours.over_floor, ours.error, ours.copy_share) == (None,) * 4
    assert of(rows, "compile", "both").missing == "no memory"


def test_what_is_read_twice_is_the_traffic_without_a_cache():
    # Statistics read the input once more, sums the input and the gradient (and residual: none).
    twice = {name: operation.twice for name, operation in OPERATIONS.items()}
    assert twice == {
        "bn": {"forward": 3, "backward": 5, "both": 8},
        "bn+relu": {"forward": 3, "backward": 5, "both": 8},
        "bn+add+relu": {"forward": 4, "backward": 6, "both": 10},
        "inference": {"forward": 2},
    }
