"""Real runs over tiny shapes. No test here asks how fast anything is."""

import math

import pytest
import torch

from batchnorm.bench import make_plan, onednn, run
from batchnorm.bench.cell import deviations
from batchnorm.bench.devices.cpu import Cpu
from batchnorm.bench.machine import Others, last_level_cache
from batchnorm.bench.problem import deviation, make_problem
from batchnorm.ops import native
from batchnorm.records import BenchResult, from_json, to_json

TINY = {"shapes": ["4,20,3,3", "16,5"], "seconds": 1e-3}


@pytest.fixture(scope="module")
def result():
    return run(make_plan(**TINY))


def test_every_cell_has_a_row_for_everyone(result):
    found = {(r.shape, r.layout, r.operation, r.phase, r.variant) for r in result.timings}
    assert len(found) == len(result.timings)
    wanted = {"ours", "kernel", "eager", "onednn"}
    for case in make_plan(**TINY).cases():
        at = case.shape, case.layout, case.operation.name
        for phase in case.operation.passes:
            assert {r[4] for r in found if r[:4] == (*at, phase)} == wanted
        assert (*at, "copy", "copy") in found
    assert not result.partial


def test_everyone_computes_the_same_thing(result):
    # 36 values per channel, results of about 1 to 10: some roundings, not more
    for row in result.timings:
        if row.ms is not None and row.variant != "copy":
            assert 0 < row.error < 1e-5, row


def test_numbers_are_times(result):
    for row in result.timings:
        if row.ms is not None:
            assert 0 < row.best_ms <= row.low_ms <= row.ms <= row.high_ms
            assert row.repetitions >= 5
            assert row.missing == ""
        else:
            assert row.missing
            assert row.repetitions == 0


def test_a_shape_without_width_has_no_onednn(result):
    missing = {r.missing for r in result.timings if r.variant == "onednn" and r.shape == (16, 5)}
    assert missing == {"PyTorch hands only (N, C, H, W) on to oneDNN's batch normalization"}


@pytest.mark.skipif(native.library() is None, reason="the kernels were not built")
def test_the_kernel_alone_is_measured(result):
    assert all(r.ms is not None for r in result.timings if r.variant == "kernel")


def test_where_it_ran_is_said(result):
    assert result.machine["threads"] == str(torch.get_num_threads())
    assert result.machine["processor"]
    assert result.versions["torch"] == torch.__version__
    assert {"instruction set, PyTorch", "instruction set, our kernels"} <= set(result.machine)
    assert result.finished.endswith("+00:00")


def test_the_result_survives_json(result):
    again = from_json(BenchResult, to_json(result))
    assert again == result


@pytest.mark.parametrize("operation", ["bn", "bn+relu", "bn+add+relu", "inference"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_every_implementation_is_right_in_every_operation(operation, dtype):
    plan = make_plan(
        shapes=["4,20,5,5"], layouts=["channels-last"], dtypes=[dtype], operations=[operation]
    )
    (case,) = plan.cases()
    problem = make_problem(case)
    # bfloat16 has 8 bits; eager rounds up to three times on the way, at values of up to 5 rms
    limit = 1e-5 if dtype == "float32" else 3 * 5 * 2**-8
    names = [
        n for n in Cpu().variants(False) if n != "copy" and (n != "kernel" or native.library())
    ]
    for name in names:
        step = Cpu().variants(False)[name](problem)
        if dtype == "bfloat16" and name == "onednn" and not _onednn_has_bfloat16():
            continue
        assert max(deviations(problem, step).values()) < limit, name


def _onednn_has_bfloat16():
    return torch.ops.mkldnn._is_mkldnn_bf16_supported()


def test_a_wrong_result_would_be_seen():
    (case,) = make_plan(shapes=["16,5"], operations=["bn+relu"]).cases()
    problem = make_problem(case)
    step = Cpu().variants(False)["ours"](problem)
    output = step.forward()
    gradients = step.backward(output)
    wrong = [gradients[0], gradients[1], -gradients[2]]
    assert deviation(gradients, problem.gradients) < 1e-5
    assert deviation(wrong, problem.gradients) > 1


def test_blocked_tensors_hold_the_same_values():
    x = torch.randn(2, 19, 3, 4)
    blocked = onednn._blocked(x)
    assert blocked.is_mkldnn
    assert torch.equal(blocked.to_dense(), x)


def test_threads_are_fixed_and_given_back():
    before = torch.get_num_threads()
    result = run(make_plan(shapes=["16,5"], operations=["bn"], threads=before + 1, seconds=1e-3))
    assert result.machine["threads"] == str(before + 1)
    assert torch.get_num_threads() == before


def test_a_rival_that_fails_is_a_result_and_we_are_not(monkeypatch):
    def broken(problem):
        raise RuntimeError("no such\n  thing " + "x" * 500)

    known = Cpu().variants(False)
    monkeypatch.setattr(Cpu, "variants", lambda self, with_compile: {**known, "onednn": broken})
    plan = make_plan(shapes=["16,5"], operations=["bn"], seconds=1e-3)
    rows = [row for row in run(plan).timings if row.variant == "onednn"]
    assert all(row.missing.startswith("RuntimeError: no such thing xxx") for row in rows)
    assert all(len(row.missing) < 200 for row in rows)

    monkeypatch.setattr(Cpu, "variants", lambda self, with_compile: {**known, "ours": broken})
    with pytest.raises(RuntimeError, match="no such"):
        run(plan)


def test_ctrl_c_leaves_what_was_measured(tmp_path):
    file = tmp_path / "bench.json"

    def stop(progress):
        if progress.done == 2:
            raise KeyboardInterrupt

    result = run(make_plan(**TINY), file, on_progress=stop)
    assert result.partial
    assert len({(r.shape, r.layout, r.operation) for r in result.timings}) == 2
    assert result.means
    saved = from_json(BenchResult, file.read_text())
    assert (saved.partial, saved.timings) == (True, result.timings)
    assert [path.name for path in tmp_path.iterdir()] == ["bench.json"]


def test_progress_counts_cells():
    seen = []
    plan = make_plan(shapes=["16,5"], operations=["bn", "inference"], seconds=1e-3)
    run(plan, on_progress=lambda p: seen.append((p.done, p.total, str(p.case), len(p.rows) > 4)))
    assert seen == [
        (0, 2, "None", False),
        (1, 2, "bn 16×5 contiguous float32", True),
        (2, 2, "inference 16×5 contiguous float32", True),
    ]


def test_the_time_of_others_is_counted(tmp_path):
    file = tmp_path / "stat"
    ticks = "cpu  {} 0 0 {} 0 0 0 0 0 0\ncpu0 1 2 3\n"
    file.write_text(ticks.format(100_000, 100_000))
    others = Others(file)
    file.write_text(ticks.format(300_000, 300_000))  # half of it, next to which we are nothing
    assert others.share() == pytest.approx(0.5, abs=0.01)
    assert Others(tmp_path / "nothing").share() is None


def test_the_largest_cache_is_the_last_level(tmp_path):
    for index, size in enumerate(("32K", "1024K", "32768K")):
        (tmp_path / f"index{index}").mkdir()
        (tmp_path / f"index{index}" / "size").write_text(size + "\n")
    assert last_level_cache(tmp_path) == 32 * 2**20
    assert last_level_cache(tmp_path / "nothing") is None


def test_a_result_that_is_not_finite_is_kept_and_said(monkeypatch):
    known = Cpu().variants(False)

    def broken(problem):
        step = known["eager"](problem)
        return type(step)(
            lambda: step.forward() * math.nan, lambda y: step.backward(step.forward())
        )

    monkeypatch.setattr(Cpu, "variants", lambda self, with_compile: {**known, "eager": broken})
    result = run(make_plan(shapes=["16,5"], operations=["bn"], seconds=1e-3))
    rows = {r.phase: r for r in result.timings if r.variant == "eager"}
    assert math.isnan(rows["forward"].error)
    assert rows["backward"].error < 1e-5
    assert math.isnan(rows["both"].error)


def test_stopped_before_the_first_cell_an_earlier_file_stays_as_it_was(tmp_path):
    file = tmp_path / "bench.json"
    file.write_text("before")

    def stop(progress):
        raise KeyboardInterrupt

    result = run(make_plan(**TINY), file, on_progress=stop)
    assert (result.partial, result.timings, result.means) == (True, (), ())
    assert file.read_text() == "before"
