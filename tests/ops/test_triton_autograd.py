"""What is made of the kernels for GPUs: the autograd Functions, compiled graphs, recomputation."""

import pytest
import torch

import batchnorm
from batchnorm import compose
from batchnorm.functional import batch_norm
from batchnorm.nn import BatchNorm2d
from batchnorm.ops import dispatch
from batchnorm.ops.activation import ACTIVATIONS
from batchnorm.ops.affine import Affine
from batchnorm.ops.contract import SIGNED
from batchnorm.ops.normalize import by_batch, by_constants
from cases import take_route
from interpreter import ALONE, SHARED

pytestmark = pytest.mark.slow
SHAPE = (4, 6, 8, 8)


@pytest.fixture(params=[ALONE, SHARED], autouse=True)
def route(request, monkeypatch):
    take_route(monkeypatch, request.param)


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def tensors(dtype=torch.float32):
    x, residual = (randn(*SHAPE, seed=seed).to(dtype).requires_grad_() for seed in (0, 1))
    return x, residual, randn(6, seed=2) + 1, randn(6, seed=3)


def normalize(phase, x, after):
    if phase == "batch":
        return by_batch(x, after, 1e-5)[0]
    return by_constants(x, torch.zeros(6), torch.ones(6), after, 1e-5)


each_phase = pytest.mark.parametrize("phase", ["batch", "constants"])


@each_phase
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("residual", [False, True], ids=["plain", "residual"])
@pytest.mark.parametrize("name", [None, "relu", "leaky_relu", "silu"])
def test_the_input_and_vectors_are_kept_never_the_output(name, residual, dtype, phase):
    x, addend, weight, bias = tensors(dtype)
    after = Affine(weight, bias, addend if residual else None, ACTIVATIONS.get(name))
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(saved.append, lambda _: None):
        y = normalize(phase, x, after)
    kept = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in saved}
    assert y.untyped_storage().data_ptr() not in kept
    size = kept.pop(x.untyped_storage().data_ptr())
    if residual and name not in (None, *SIGNED):
        assert kept.pop(addend.untyped_storage().data_ptr()) == size
    bits = x.numel() / 8 if residual and name in SIGNED else 0
    assert sum(kept.values()) <= bits + 6 * 6 * 4  # and some vectors of 6 channels


def assert_same_derivatives(ours, exact, leaves):
    """The first and the second, of which the first must be differentiable by itself."""
    factor = randn(*SHAPE, seed=5)  # of the plain sum of squares, the gradient is 0
    direction = [randn(*t.shape, seed=6) for t in leaves]
    results = []
    for function in (ours, exact):
        grads = torch.autograd.grad((function().square() * factor).sum(), leaves, create_graph=True)
        inner = sum((g * d).sum() for g, d in zip(grads, direction, strict=True))
        results.append((grads, torch.autograd.grad(inner, leaves)))
    for ours_of, exact_of in zip(*results, strict=True):
        for a, b in zip(ours_of, exact_of, strict=True):
            assert (a - b).abs().max() <= 2**-15 * b.abs().max()


@each_phase
@pytest.mark.parametrize("residual", [False, True], ids=["plain", "residual"])
@pytest.mark.parametrize("name", [None, "relu", "elu", "gelu"])
def test_the_gradient_has_the_gradients_that_torch_computes(name, residual, phase):
    x, addend, weight, bias = tensors()
    weight.requires_grad_(), bias.requires_grad_()
    act = ACTIVATIONS.get(name)

    def exact():
        given = torch.zeros(6).double(), torch.ones(6).double(), weight.double(), bias.double()
        z = torch.nn.functional.batch_norm(x.double(), *given, phase == "batch")
        z = z + addend if residual else z
        return z if act is None else act.forward(z)

    def ours():
        return normalize(phase, x, Affine(weight, bias, addend if residual else None, act))

    assert_same_derivatives(ours, exact, [x, weight, bias] + [addend] * residual)


@pytest.mark.parametrize("name", [None, "silu"])
@pytest.mark.parametrize("options", ["mask", "weights", "virtual"])
def test_weighted_statistics_have_the_gradients_of_the_composite_form(options, name, monkeypatch):
    x, addend, weight, bias = tensors()
    weight.requires_grad_(), bias.requires_grad_()
    given = {
        "mask": {"mask": randn(4, 8, 8, seed=7) > -0.5},
        "weights": {"sample_weight": randn(4, 8, 8, seed=7).square()},
        "virtual": {"sample_weight": randn(4, 8, 8, seed=7).square(), "virtual_batch_size": 2},
    }[options]

    def run(*tensors):
        x, weight, bias, addend = tensors
        options = {**given, "activation": name, "residual": addend, "training": True}
        return batch_norm(x, None, None, weight, bias, **options)

    leaves = [x, weight, bias, addend]
    assert_same_derivatives(
        lambda: run(*leaves), lambda: run(*(t.double() for t in leaves)), leaves
    )


class Alone:
    """The replicas of a world of one."""

    size, rank = 1, 0

    def gather(self, row):
        return row[None]

    def total(self, sums):
        return sums.clone()


@pytest.mark.parametrize("mask", [False, True])
def test_statistics_of_one_replica_are_those_without_replicas(mask):
    results = []
    for train in (compose.train, compose.train_together):
        x, addend, weight, bias = tensors()
        weight.requires_grad_(), bias.requires_grad_()
        after = Affine(weight, bias, addend, ACTIVATIONS["gelu"])
        others = [Alone()] if train is compose.train_together else []
        chosen = randn(4, 8, 8, seed=7) > -0.5 if mask else None
        y, batch = train(x, after, compose.Options(1e-5), *others, mask=chosen)
        grads = torch.autograd.grad((y * randn(*SHAPE, seed=5)).sum(), (x, addend, weight, bias))
        results.append((y, *grads, batch.mean, batch.var))
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
def test_a_compiled_layer_has_the_gradients_of_the_eager_one(training):
    layer = BatchNorm2d(6, activation="relu").train(training)
    results = []
    torch._dynamo.reset()
    for call in (layer, torch.compile(layer, backend="aot_eager", fullgraph=True)):
        x, residual, _, _ = tensors()
        y = call(x, residual)
        leaves = x, residual, layer.weight, layer.bias
        results.append((y, *torch.autograd.grad(y.square().sum(), leaves)))
    assert dispatch.own(x) is not None
    for ours, eager in zip(*results, strict=True):
        torch.testing.assert_close(ours, eager, rtol=2**-20, atol=2**-20)


def test_torch_finds_no_fault_with_the_operations():
    x, residual, weight, bias = tensors()
    given = weight.requires_grad_(), bias.requires_grad_(), residual, "gelu"
    torch.library.opcheck(torch.ops.batchnorm.train, (x, 1e-3, *given))
    running = torch.zeros(6), torch.ones(6)
    torch.library.opcheck(torch.ops.batchnorm.evaluate, (x, *running, 1e-3, *given))


def test_outputs_that_are_computed_once_more_are_the_same_bit_for_bit(monkeypatch):
    monkeypatch.setattr("batchnorm.ops.recompute.SMALL", 0)
    layers = torch.nn.Sequential(BatchNorm2d(6, activation="relu"), torch.nn.Conv2d(6, 2, 3))
    results = []
    for recomputed in (False, True):
        x, *_ = tensors()
        if recomputed:
            with batchnorm.recompute():
                y = layers(x)
        else:
            y = layers(x)
        results.append(torch.autograd.grad(y.square().sum(), [x, *layers.parameters()]))
    assert all(map(torch.equal, *results))
