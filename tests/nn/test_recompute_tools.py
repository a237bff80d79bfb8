"""`bn.recompute()` beside other tools of torch: as without it, bit for bit."""

import time
import warnings
from contextlib import contextmanager, nullcontext
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.autograd.graph import save_on_cpu, saved_tensors_hooks
from torch.nn.parallel import DistributedDataParallel

import batchnorm as bn
from batchnorm.ops import recompute
from cases import need_library

from .recomputed import Counter, assert_same, benchmark, chain, image, step

TIMEOUT = 60


@pytest.fixture(autouse=True)
def computed(monkeypatch):
    need_library()
    return Counter(monkeypatch)


def small_resnet():
    torch.manual_seed(0)
    return benchmark.resnet("resnet18", ours=True, width=8)


@pytest.mark.parametrize("backward_inside", [False, True], ids=["forward", "all"])
@pytest.mark.parametrize("cast", ["within", "around"])
def test_autocast(cast, backward_inside, computed):
    @contextmanager
    def both():
        autocast = torch.autocast("cpu", torch.bfloat16)
        first, second = (
            (bn.recompute(), autocast) if cast == "within" else (autocast, bn.recompute())
        )
        with first, second:
            yield

    model, x = small_resnet(), image(4, 3, 32, 32)
    expected = step(
        model,
        x,
        context=lambda: torch.autocast("cpu", torch.bfloat16),
        backward_inside=backward_inside,
    )
    expected = {name: t.clone() for name, t in expected.items() if name.startswith("gradient")}
    found = step(model, x, context=both, backward_inside=backward_inside)
    assert expected
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    assert computed.count


def test_backward_pass_under_autocast(computed):
    """Where the forward pass was not."""
    model, x = chain("gelu"), image(4, 3, 9, 9)
    (expected,) = torch.autograd.grad(model(x).square().sum(), x)
    with bn.recompute():
        y = model(x).square().sum()
    before = computed.count
    with torch.autocast("cpu", torch.bfloat16):
        (found,) = torch.autograd.grad(y, x)
    assert computed.count == before + 2
    torch.testing.assert_close(found, expected, rtol=0.1, atol=0.1)


def test_pooled_statistics():
    one, other = chain(), chain()
    x = image(4, 3, 9, 9)
    with bn.accumulate(one):
        expected = [step(one, x), step(one, x + 1)]
    with bn.accumulate(other), bn.recompute():
        found = [step(other, x), step(other, x + 1)]
    for mine, its in zip(found, expected, strict=True):
        assert all(torch.equal(mine[name], its[name]) for name in its if its[name] is not None)
    for mine, its in zip(other.buffers(), one.buffers(), strict=True):
        assert torch.equal(mine, its)


@pytest.mark.parametrize("optimizer", ["SGD", "Adam"])
def test_training(optimizer, computed):
    models = small_resnet(), small_resnet()
    for model, context in zip(models, (nullcontext, bn.recompute), strict=True):
        descent = getattr(torch.optim, optimizer)(model.parameters(), lr=0.01)
        for seed in range(3):
            descent.zero_grad()
            with context():
                y = model(image(4, 3, 32, 32, seed=seed))
            y.square().mean().backward()
            descent.step()
    for mine, its in zip(*(model.state_dict().values() for model in models), strict=True):
        assert torch.equal(mine, its)
    assert computed.count == 3 * 19


def test_context_around_the_whole_training(computed):
    models = small_resnet(), small_resnet()
    for model, context in zip(models, (nullcontext, bn.recompute), strict=True):
        descent = torch.optim.SGD(model.parameters(), lr=0.01)
        with context():
            for seed in range(3):
                descent.zero_grad()
                model(image(4, 3, 32, 32, seed=seed)).square().mean().backward()
                descent.step()
    for mine, its in zip(*(model.state_dict().values() for model in models), strict=True):
        assert torch.equal(mine, its)
    assert computed.count == 3 * 19


HOOKS = {
    "save_on_cpu": save_on_cpu,
    "user's": lambda: saved_tensors_hooks(lambda t: t.detach().clone(), lambda t: t),
}


@pytest.mark.parametrize("order", ["inside", "around"])
@pytest.mark.parametrize("hooks", HOOKS)
def test_other_hooks_do_the_saving(hooks, order, computed):
    @contextmanager
    def both():
        contexts = [bn.recompute(), HOOKS[hooks]()]
        first, second = contexts if order == "inside" else contexts[::-1]
        with first, second:
            yield

    assert_same(small_resnet(), image(4, 3, 32, 32), context=both)
    assert computed.count == 0


def test_hooks_of_modules():
    model, seen = small_resnet(), []
    for module in list(model.modules()):
        module.register_full_backward_hook(lambda module, gi, go: seen.append(module))
    assert_same(model, image(4, 3, 32, 32))
    assert seen


def test_gradients_of_outputs():
    def way(model, x):
        y = model[1](model[0](x))
        y.register_hook(lambda grad: 2 * grad)
        y.retain_grad()
        return model[2](y)

    assert_same(chain(), image(4, 3, 9, 9), way)


def test_anomaly_detection():
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Anomaly Detection has been enabled")
        with torch.autograd.detect_anomaly():
            assert_same(chain(), image(4, 3, 9, 9))


def test_other_hooks_around_a_part(computed):
    def way(model, x):
        y = model[2](model[1](model[0](x)))
        with HOOKS["user's"]():
            return model[4](model[3](y))

    assert_same(chain(), image(4, 3, 9, 9), way)
    assert computed.count == 2


def test_function_transforms_refuse_hooks_and_say_so():
    """Of torch itself; docs/memory.md has the way out."""
    model, x = chain(), image(4, 3, 9, 9).detach()
    with bn.recompute(), pytest.raises(RuntimeError, match="saved tensor hooks"):
        torch.func.grad(lambda x: model(x).sum())(x)


def test_context_within_a_function_transform(computed):
    def inside(x):
        with bn.recompute():
            return model(x).square().sum()

    model, x = chain(track_running_stats=False), image(4, 3, 9, 9).detach()
    expected = torch.func.grad(lambda x: model(x).square().sum())(x)
    assert torch.equal(torch.func.grad(inside)(x), expected)
    assert computed.count == 0


@pytest.fixture
def compiler():
    torch._dynamo.reset()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*should not be instantiated", DeprecationWarning)
        warnings.filterwarnings("ignore", "The .grad attribute")  # the compiler looks at it
        yield
    torch._dynamo.reset()


@pytest.mark.slow
@pytest.mark.parametrize("backward_inside", [False, True], ids=["forward", "all"])
def test_compiled_model_in_the_context(compiler, backward_inside):
    model = chain("silu")
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)

    def way(model, x):
        return compiled(x)

    x = image(4, 3, 9, 9)
    expected = step(model, x, way)
    expected = {name: t.clone() for name, t in expected.items() if name.startswith("gradient")}
    found = step(model, x, way, bn.recompute, backward_inside)
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


@pytest.mark.slow
def test_layers_before_and_after_a_compiled_part(compiler, computed):
    model = chain("silu")
    part = torch.compile(model[2], backend="aot_eager")

    def way(model, x):
        return model[4](model[3](part(model[1](model[0](x)))))

    expected, found = (
        {
            name: tensor.clone()
            for name, tensor in step(model, image(4, 3, 9, 9), way, context).items()
            if name.startswith("gradient")
        }
        for context in (nullcontext, bn.recompute)
    )
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert computed.count == 2


@pytest.mark.slow
def test_context_in_a_compiled_function(compiler, computed):
    model = chain("silu")

    def within(x):
        with bn.recompute():
            return model(x)

    compiled = torch.compile(within, backend="aot_eager", fullgraph=True)
    x = image(4, 3, 9, 9)
    expected = step(model, x)["gradient of the input"]
    found = step(model, x, lambda m, x: compiled(x))["gradient of the input"]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-3)


def work(rank, folder):
    """Train with and without; save what each has ended with."""
    torch.set_num_threads(1)
    timeout = timedelta(seconds=TIMEOUT)
    dist.init_process_group(
        "gloo", f"file://{folder / 'meeting'}", timeout, rank=rank, world_size=2
    )
    recompute.SMALL = 0
    found = []
    for context in (nullcontext, bn.recompute):
        model = small_resnet()
        wrapped = DistributedDataParallel(model)
        descent = torch.optim.SGD(model.parameters(), lr=0.01)
        for number in range(3):
            descent.zero_grad()
            losses = []
            with context():
                for part in range(2):  # two forward passes, then one backward pass
                    seed = 10 * number + 2 * part + rank
                    losses.append(wrapped(image(4, 3, 32, 32, seed=seed)).square().mean())
            sum(losses).backward()
            descent.step()
        found.append(model.state_dict())
    torch.save(found, folder / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
@pytest.mark.skipif(
    not (dist.is_available() and dist.is_gloo_available()), reason="needs torch.distributed"
)
def test_two_processes(tmp_path):
    processes = mp.spawn(work, (tmp_path,), nprocs=2, join=False)
    deadline = time.monotonic() + TIMEOUT
    while not processes.join(timeout=1.0):
        if time.monotonic() > deadline:
            for process in processes.processes:
                process.kill()
            raise TimeoutError(f"the replicas did not end in {TIMEOUT} s")
    ranks = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    for without, within in ranks:
        assert without.keys() == within.keys()
        assert all(torch.equal(within[name], without[name]) for name in without)
    weights = [name for name in ranks[0][1] if name.endswith("weight")]
    assert all(torch.equal(ranks[0][1][name], ranks[1][1][name]) for name in weights)
