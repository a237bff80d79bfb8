"""What a device is called, what is said where it is not there, and what takes turns on it."""

from types import SimpleNamespace

import pytest
import torch

from batchnorm.bench import launched, make_plan
from batchnorm.bench.case import OPERATIONS, Case
from batchnorm.bench.cell import deviations, prepare
from batchnorm.bench.devices import cuda, find
from batchnorm.bench.devices.cpu import Cpu
from batchnorm.bench.devices.find import what_is_missing
from batchnorm.bench.problem import make_problem
from batchnorm.bench.variants import compiled, copy, eager, ours
from batchnorm.errors import DeviceError, UsageError
from batchnorm.ops import cpu, native
from interpreter import ALONE, interpret

MISSING = {
    "a PyTorch without CUDA": ((None, 0, None), "PyTorch 2.13.0, which was built without CUDA"),
    "no GPU": (("12.8", 0, None), "none (PyTorch 2.13.0 for CUDA 12.8 sees no GPU)"),
    "no such GPU": (("12.8", 2, 2), "only cuda:0, cuda:1; choose one of those"),
}


@pytest.mark.parametrize("name", MISSING)
def test_what_is_missing_is_said_with_what_to_do(name):
    (built, count, index), expected = MISSING[name]
    assert what_is_missing("2.13.0", built, count, index).startswith(expected)


@pytest.mark.parametrize("index", [None, 0, 1])
def test_nothing_is_missing_where_it_is_there(index):
    assert what_is_missing("2.13.0", "12.8", 2, index) == ""


@pytest.mark.parametrize("name", ["", "gpu", "cuda:", "cuda:x", "cuda:-1", "cpu:0", "cuda:0:1"])
def test_other_names_are_refused(name):
    with pytest.raises(UsageError, match="expected cpu, cuda, or cuda:0"):
        find(name)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("name", ["cuda", "cuda:3"])
def test_without_a_gpu_it_is_an_error_of_the_environment(name):
    with pytest.raises(DeviceError, match=f"--device {name}: expected a GPU") as caught:
        make_plan(device=name)
    assert caught.value.exit_code == 3
    assert "--device cpu" in str(caught.value)


def cell(shape, operation, dtype="float32"):
    return Case(shape, "contiguous", dtype, OPERATIONS[operation])


@pytest.mark.parametrize(
    ("operation", "tensors"), [("inference", 1), ("bn", 2), ("bn+add+relu", 3)]
)
def test_the_inputs_that_take_turns_are_several_times_the_cache(operation, tensors):
    cache = 50 * 2**20
    for shape in [(256, 64, 112, 112), (256, 512, 7, 7), (256, 512)]:
        case = cell(shape, operation, "bfloat16")
        count = cuda.sets(case, cache)
        assert count * tensors * case.bytes >= 4 * cache
        assert count == 1 or (count - 1) * tensors * case.bytes < 4 * cache


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue\nGCC 12.2.0", "550.54.15"),
        ("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.86  Release", "570.86"),
        ("something else", "unknown"),
    ],
)
def test_the_driver_s_version(text, expected, tmp_path):
    (tmp_path / "version").write_text(text)
    assert cuda.driver(tmp_path / "version") == expected
    assert cuda.driver(tmp_path / "nothing") == "unknown"


@pytest.mark.parametrize("operation", OPERATIONS)
def test_sets_hold_the_same_values_in_other_places(operation):
    problem = make_problem(cell((4, 3, 5), operation), sets=3)
    assert len(problem.rotation) == 3
    assert len({one.x.data_ptr() for one in problem.rotation}) == 3
    for one in problem.rotation:
        assert torch.equal(one.x, problem.x)
        assert torch.equal(one.grad, problem.grad)
        assert one.output is problem.output or torch.equal(one.output, problem.output)


@pytest.mark.native
@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("build", [ours, eager, launched.step], ids=["ours", "eager", "kernel"])
def test_every_set_is_worked_on_in_its_turn_and_gives_the_same(build, operation):
    problem = make_problem(cell((4, 20, 5, 5), operation), sets=3)
    step = build(problem)
    for _ in range(4):
        assert max(deviations(problem, step).values()) < 1e-5
    problem.rotation[1].x.mul_(2)  # only the second set is wrong now
    problem.rotation[1].x.add_(1)
    found = [max(deviations(problem, step).values()) for _ in range(6)]
    wrong = [error > 1e-3 for error in found]
    assert wrong == [True, False, False, True, False, False]


@pytest.mark.native
@pytest.mark.parametrize("operation", ["bn", "bn+relu", "bn+add+relu"])
def test_the_kernel_alone_reads_signs_in_place_of_the_residual(operation, monkeypatch):
    seen = []
    backward = cpu.backward

    def watched(grad_y, x, vectors, after, signs, *rest, **options):
        seen.append(signs is not None)
        return backward(grad_y, x, vectors, after, signs, *rest, **options)

    monkeypatch.setattr(cpu, "backward", watched)
    step = launched.step(make_problem(cell((4, 20, 5, 5), operation)))
    step.backward(step.forward())
    assert seen == [operation == "bn+add+relu"]


def test_the_copy_takes_turns_too():
    problem = make_problem(cell((4, 3), "bn"), sets=2)
    problem.others[0].x.fill_(7)
    step = copy(problem)
    assert [bool((step.forward() == 7).all()) for _ in range(4)] == [False, True, False, True]


def test_a_compiled_layer_is_built_once_for_all_sets(monkeypatch):
    built = []
    monkeypatch.setattr(torch, "compile", lambda block, **how: built.append(how) or block)
    problem = make_problem(cell((4, 3, 5), "bn+relu"), sets=4)
    step = compiled(problem)
    for _ in range(5):
        assert max(deviations(problem, step).values()) < 1e-5
    assert built == [{"fullgraph": True, "dynamic": False}]


@pytest.mark.skipif(native.library() is not None, reason="the kernels were built")
def test_without_kernels_the_kernel_alone_is_unavailable():
    with pytest.raises(launched.Unavailable):
        launched.step(make_problem(cell((4, 3), "bn")))


CARD = SimpleNamespace(
    name="Imagined GPU",
    major=9,
    minor=0,
    multi_processor_count=132,
    total_memory=141 * 2**30,
    L2_cache_size=50 * 2**20,
)


def test_a_gpu_is_described_by_its_properties():
    device = cuda.Cuda(torch.device("cpu"), CARD)
    assert device.cache_bytes() == 50 * 2**20
    assert device.memory() == 141 * 2**30
    assert device.watch()() is None
    facts = device.facts()
    assert facts["GPU"] == "Imagined GPU"
    assert facts["compute capability"] == "9.0"
    assert (facts["multiprocessors"], facts["memory"]) == ("132", "141 GiB")
    assert facts["last-level cache"] == "50 MiB"
    assert {"batchnorm", "torch", "CUDA", "cuDNN", "triton"} <= set(device.versions())
    assert device.sets(cell((256, 64, 56, 56), "bn", "bfloat16")) == 2


@pytest.mark.parametrize("dtype", cuda.Cuda.dtypes)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_who_is_measured_on_a_gpu_computes_the_same_when_interpreted(operation, dtype, monkeypatch):
    interpret(monkeypatch, ALONE)
    small = SimpleNamespace(L2_cache_size=2**10)
    device = cuda.Cuda(torch.device("cpu"), small)
    case = cell((4, 5, 3, 3), operation, dtype)
    assert device.sets(case) > 1
    found = prepare(case, device)
    assert list(found.steps) == ["copy", "ours", "kernel", "eager"], found.missing
    limit = {"float32": 1e-5, "bfloat16": 3 * 5 * 2**-8, "float16": 3 * 5 * 2**-11}[dtype]
    for name, errors in found.errors.items():
        assert max(errors.values(), default=0) < limit, name


def test_on_the_cpu_pytorch_serves_itself():
    assert eager(make_problem(cell((4, 3, 5, 5), "bn"))).by == ""
    assert Cpu().sets(cell((4, 3), "bn")) == 1


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_everyone_on_a_gpu_computes_the_same(operation, dtype):
    device = find("cuda")
    plan = make_plan(shapes=["8,20,5,5"], dtypes=[dtype], operations=[operation], device="cuda")
    limit = {"float32": 1e-5, "bfloat16": 3 * 5 * 2**-8, "float16": 3 * 5 * 2**-11}[dtype]
    for case in plan.cases():
        found = prepare(case, device)
        assert set(found.steps) == {"copy", "ours", "kernel", "eager"}, found.missing
        for name, errors in found.errors.items():
            assert max(errors.values(), default=0) < limit, (case, name)


@pytest.mark.gpu
def test_cudnn_is_named_where_it_serves():
    device = find("cuda").place
    assert eager(make_problem(cell((4, 8, 5, 5), "bn"), device)).by == "cuDNN"
    assert eager(make_problem(cell((4, 8, 5, 5), "bn", "bfloat16"), device)).by == ""
    assert eager(make_problem(cell((4, 8), "bn"), device)).by == ""


@pytest.mark.gpu
def test_a_gpu_says_what_it_is():
    device = find("cuda")
    facts = device.facts()
    assert facts["GPU"] == torch.cuda.get_device_name()
    assert int(facts["multiprocessors"]) > 0
    assert device.cache_bytes() > 0
    assert device.versions()["CUDA"] == torch.version.cuda
