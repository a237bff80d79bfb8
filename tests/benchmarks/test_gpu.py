"""The run on a GPU, as far as a CPU can show it: its order, its time, its arithmetic, its files."""

import dataclasses
from types import SimpleNamespace

import pytest
import torch

from batchnorm.bench.devices.cuda import Cuda
from batchnorm.records import BenchResult, from_json
from report import sample_bench
from scripts import load

gpu = load("gpu")
targets, networks, checks = gpu.targets, gpu.networks, gpu.checks
Job, Done = gpu.Job, gpu.Done


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now

    def job(self, kind, name, seconds, error=None):
        """A job that takes so many seconds."""

        def run():
            self.now += seconds
            if error is not None:
                raise error
            return Done(said={name: "done"})

        return Job(kind, name, run)


def states(clock, made, seconds):
    found = gpu.work_off(made, seconds, clock)
    return "".join("-" if one.left_out else "!" if one.error else "+" for one in found)


def test_jobs_are_done_in_their_order_until_the_time_is_spent():
    clock = Clock()
    made = [clock.job("cell", str(number), 9.0) for number in range(20)]
    assert states(clock, made, 60.0) == 6 * "+" + 14 * "-"
    assert clock.now == 54.0


def test_a_job_is_expected_to_take_as_long_as_the_longest_of_its_kind():
    clock = Clock()
    made = [clock.job("cell", "long", 30.0), *(clock.job("cell", "short", 1.0) for _ in range(9))]
    assert states(clock, made, 65.0) == "+" + 6 * "+" + 3 * "-", "the last begins at 35 seconds"
    assert clock.now == 36.0


def test_what_is_too_long_is_left_out_and_shorter_ones_follow():
    clock = Clock()
    made = [clock.job("network", "n", 100.0), clock.job("cell", "c", 5.0)]
    assert states(clock, made, 100.0) == "-+"


def test_a_failure_is_told_and_the_others_go_on():
    clock = Clock()
    made = [clock.job("cell", "a", 1.0, ValueError("no such thing")), clock.job("cell", "b", 1.0)]
    first, second = gpu.work_off(made, 100.0, clock)
    assert (first.error, first.done, first.left_out) == ("ValueError: no such thing", None, False)
    assert second.done.said == {"b": "done"}


def test_after_three_failures_in_a_row_the_gpu_is_taken_to_be_lost():
    clock = Clock()
    pattern = "!!+!!!++"
    made = [clock.job("cell", "", 1.0, OSError() if one == "!" else None) for one in pattern]
    assert states(clock, made, 100.0) == "!!+!!!--"


def small_run(tmp_path, **changes):
    run = gpu.rehearsal()
    return dataclasses.replace(run, out=tmp_path / "made" / "gpu-x.json", **changes)


def test_the_most_important_comes_first():
    run = gpu.rehearsal()
    plan = dataclasses.replace(run.plan, shapes=((8, 4, 3, 3), (8, 4, 2, 2)))
    found = list(gpu.jobs(dataclasses.replace(run, plan=plan)))
    assert found[0].name == "results"
    assert [job.kind for job in found[1:]] == 2 * (8 * ["cell"] + ["network"]) + 12 * ["cell"]
    assert [job.name for job in found[1:4]] == [
        "bn+relu 8×4×3×3 channels-last bfloat16",
        "bn+add+relu 8×4×3×3 channels-last bfloat16",
        "bn+relu 8×4×3×3 contiguous bfloat16",
    ]
    assert found[9].name == "ResNet-50 bfloat16"
    assert all("float32" in job.name for job in found[10:19])
    assert all(job.name.startswith("bn ") for job in found[19:]), "small ones come last"


def test_the_whole_run_is_the_announced_one(tmp_path):
    card = SimpleNamespace(
        name="NVIDIA H200",
        major=9,
        minor=0,
        multi_processor_count=132,
        total_memory=141 * 2**30,
        L2_cache_size=50 * 2**20,
    )
    options = gpu._options(["--minutes", "5", "--out", str(tmp_path)])
    run = gpu.full(Cuda(torch.device("cuda", 0), card), options)
    assert (run.out, run.seconds) == (tmp_path / "gpu-nvidia-h200.json", 300.0)
    names = [job.name for job in gpu.jobs(run)]
    assert names[:3] == [
        "results",
        "CUDA graph",
        "bn+relu 256×64×112×112 channels-last bfloat16",
    ]
    cells = 9 * 2 * 2
    assert names.index("ResNet-50 bfloat16") == 2 + cells
    assert names.index("ResNet-50 float32") == 3 + 2 * cells
    assert len(names) == len(set(names)) == 4 + 2 * cells + 12
    assert run.plan.compile
    assert not gpu.full(run.plan.device, gpu._options(["--no-compile"])).plan.compile


def test_the_cpu_is_only_rehearsed_on(capsys):
    assert gpu.main(["--device", "cpu"]) == 2
    assert "expected cuda or cuda:N; on the CPU, --rehearse" in capsys.readouterr().err


def test_a_run_saves_after_every_job_and_says_what_was_left_out(tmp_path, monkeypatch, capsys):
    run = small_run(tmp_path)
    seen = []

    def jobs_of(run):
        made = [job for job in gpu_jobs(run) if job.kind == "cell"][:2]
        yield from made
        seen.append(from_json(BenchResult, run.out.read_text()))
        yield Job("network", "ResNet-50 float32", lambda: Done())

    gpu_jobs = gpu.jobs
    monkeypatch.setattr(gpu, "jobs", jobs_of)
    assert gpu.carry_out(dataclasses.replace(run, seconds=100.0)) == 0
    (between,) = seen
    assert len({(r.layout, r.operation) for r in between.timings}) == 2
    assert between.partial
    saved = from_json(BenchResult, run.out.read_text())
    assert saved.partial
    assert saved.settings["left out for want of time"] == "ResNet-50 float32"
    printed = capsys.readouterr()
    assert "times faster than PyTorch eager | bfloat16 | 1.50" in printed.out
    assert "ResNet-50 float32: left out" in printed.err


def test_a_failed_check_is_exit_code_1_and_kept(tmp_path, monkeypatch, capsys):
    def wrong(device):
        raise checks.Wrong("3 of 96 results: ...")

    monkeypatch.setattr(checks, "parity", wrong)
    run = small_run(tmp_path)
    monkeypatch.setattr(gpu, "jobs", lambda run, made=gpu.jobs: list(made(run))[:2])
    assert gpu.carry_out(run) == 1
    saved = from_json(BenchResult, run.out.read_text())
    assert saved.settings["FAILED: results"] == "Wrong: 3 of 96 results: ..."
    assert saved.partial
    assert saved.timings, "the times are there all the same"
    assert "FAILED: results: Wrong: 3 of 96" in capsys.readouterr().out


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_is_one_sentence_and_exit_code_3(capsys, tmp_path):
    assert gpu.main(["--out", str(tmp_path)]) == 3
    error = capsys.readouterr().err
    assert error.startswith("gpu.py: --device cuda: expected a GPU that PyTorch can use, found ")
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.native
def test_results_that_are_right_pass(monkeypatch):
    monkeypatch.setattr(checks, "SHAPES", ((4, 5, 3, 3),))
    assert checks.parity(gpu.find("cpu")) == "48 results compared with float64, none is off"


@pytest.mark.native
def test_results_that_are_wrong_do_not(monkeypatch):
    monkeypatch.setattr(checks, "SHAPES", ((4, 5, 3, 3),))
    original = checks.prepare

    def off(case, device):
        found = original(case, device)
        if case.layout == "contiguous" and case.dtype == "float32":
            found.errors["kernel"]["backward"] = 1e-3
            found.errors["ours"]["forward"] = float("nan")
        return found

    monkeypatch.setattr(checks, "prepare", off)
    with pytest.raises(checks.Wrong, match=r"4 of 48 results: bn\+relu 4×5×3×3 contiguous float32"):
        checks.parity(gpu.find("cpu"))


def test_kernels_that_do_not_serve_are_no_success(monkeypatch):
    original = checks.prepare

    def without(case, device):
        found = original(case, device)
        found.missing["kernel"] = "this GPU is too old"
        return found

    monkeypatch.setattr(checks, "prepare", without)
    with pytest.raises(checks.Wrong, match="do not serve: this GPU is too old"):
        checks.parity(gpu.find("cpu"))


def test_losses_of_other_networks_are_refused():
    networks.compare({"ours": 2.0, "eager": 2.001, "compile": 1.9995}, 1e-3)
    for other in (2.1, float("nan"), float("inf")):
        with pytest.raises(checks.Wrong, match=r"2.0000 with our layers, .* with compile"):
            networks.compare({"ours": 2.0, "eager": 2.0, "compile": other}, 1e-3)
    with pytest.raises(checks.Wrong):
        networks.compare({"ours": float("nan"), "eager": float("nan")}, 1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_training_step_is_the_same_with_our_layers_and_learns(dtype):
    size, device = networks.Size(4, 32, 8), gpu.find("cpu")
    steps = {name: networks.make_step(device, dtype, size, name) for name in ("ours", "eager")}
    losses = {name: [step.forward() for _ in range(3)] for name, step in steps.items()}
    networks.compare({name: found[0] for name, found in losses.items()}, networks.LIMIT[dtype])
    assert losses["ours"][-1] < losses["ours"][0]
    rows, said = networks.training_steps(device, dtype, size, 1e-3, False)
    assert [(r.variant, r.operation, r.phase) for r in rows] == [
        ("ours", "resnet50", "both"),
        ("eager", "resnet50", "both"),
    ]
    assert said.startswith("ours ")


def test_targets_by_hand():
    """Ours takes a third of eager's time; 1.6 shares of the floor's."""
    found = {(t.name, t.dtype): t for t in targets.targets(sample_bench.gpu())}
    faster = found["times faster than PyTorch eager", "float32"]
    assert (faster.found, faster.worst, faster.cells) == (pytest.approx(3), pytest.approx(3), 14)
    compiled = found["times faster than torch.compile", "float32"]
    assert (compiled.found, compiled.cells) == (pytest.approx(5.0), 14)
    share = found["share of the copy's bandwidth, inputs over 100 MB", "float32"]
    # Only (32, 64, 112, 112) is larger: 103 MB, both layouts and operations.
    assert share.cells == 4
    assert share.found == pytest.approx(1.6 * 6.4257 * 3 / 32.178, rel=1e-3)


def test_targets_are_of_forward_and_backward_together():
    whole = sample_bench.gpu()
    wrong = [dataclasses.replace(r, over_eager=9.0) for r in whole.timings if r.phase != "both"]
    right = [row for row in whole.timings if row.phase == "both"]
    mixed = dataclasses.replace(whole, timings=(*right, *wrong))
    assert targets.targets(mixed) == targets.targets(whole)


def target_of(ratios, name="times faster than PyTorch eager"):
    """The target when our steps are so many times as fast as eager's, shape by shape."""
    whole = sample_bench.gpu()
    ours = [
        r for r in whole.timings if (r.variant, r.phase, r.operation) == ("ours", "both", "bn+relu")
    ]
    rows = [dataclasses.replace(r, over_eager=x) for r, x in zip(ours, ratios, strict=False)]
    (found,) = [
        t
        for t in targets.targets(dataclasses.replace(whole, timings=tuple(rows)))
        if t.name == name
    ]
    return found


def test_a_mean_is_geometric_and_the_worst_is_named():
    found = target_of([4.0, 1.0, 2.0])
    assert (found.found, found.worst) == (pytest.approx(2.0), 1.0)
    assert found.worst_at == "bn+relu 32×64×112×112 channels-last"
    assert found.is_met
    assert not target_of([1.5, 1.49]).is_met
    assert target_of([1.5]).is_met
    assert not target_of([3.0, 0.7]).is_met, "√2.1"


def test_what_was_not_measured_is_no_target():
    whole = sample_bench.gpu()
    assert targets.targets(dataclasses.replace(whole, timings=())) == []
    rows = tuple(r for r in whole.timings if r.variant != "compile" and r.megabytes < 100)
    found = targets.targets(dataclasses.replace(whole, timings=rows))
    assert [t.name for t in found] == ["times faster than PyTorch eager"]


@pytest.mark.gpu
def test_a_step_is_captured_in_a_graph():
    assert "same bits" in checks.graph(gpu.find("cuda"))


@pytest.mark.gpu
def test_results_on_a_gpu_are_right():
    assert checks.parity(gpu.find("cuda")).startswith("96 results")
