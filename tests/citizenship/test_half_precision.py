"""Autocast, half inputs and half layers: statistics are computed and kept in float32."""

import pytest
import torch
from torch import nn

import batchnorm as bn
from batchnorm import reference
from cases import assert_derived

from .cases import CLASSES, TORCH, batch, each_mode, each_option, each_size, layer, pair, randomize

HALVES = (torch.bfloat16, torch.float16)
each_half = pytest.mark.parametrize("dtype", HALVES, ids=str)
MEAN_1_VAR_4 = torch.tensor([[-1.0], [-1.0], [1.0], [3.0], [3.0]])  # correction 1, exact in half


def network(cls, body):
    torch.manual_seed(0)
    norm = cls(6, **({"activation": "relu"} if cls in CLASSES else {}))
    activation = nn.Identity() if cls in CLASSES else nn.ReLU()
    return nn.Sequential(body, norm, activation)


@each_mode
@pytest.mark.parametrize("enter", ["conv", "linear"])
def test_network_under_autocast_is_torchs(enter, training):
    body = nn.Conv2d(4, 6, 2) if enter == "conv" else nn.Linear(4, 6)
    ours_class = bn.BatchNorm2d if enter == "conv" else bn.BatchNorm1d
    x = batch() if enter == "conv" else batch().movedim(1, -1).reshape(-1, 4)
    ours, its = (network(cls, body) for cls in (ours_class, TORCH[ours_class]))
    randomize(ours[1], its[1])
    with torch.autocast("cpu", torch.bfloat16):
        hidden = body(x)
    assert hidden.dtype is torch.bfloat16
    running = (ours[1].running_mean.clone(), ours[1].running_var.clone())
    outputs, grads = [], []
    for model in (ours.train(training), its.train(training)):
        with torch.autocast("cpu", torch.bfloat16):
            y = model(x)
        outputs.append(y)
        parameters = [model[1].weight, model[1].bias, body.weight]
        grads.append(torch.autograd.grad(y.float().square().sum(), parameters, retain_graph=True))
    assert outputs[0].dtype is outputs[1].dtype
    exact = expected(hidden, running, its[1], training, grad_y=2 * outputs[0].float())
    assert_derived("output", *outputs, exact.output, torch.bfloat16)
    for name, (mine, theirs) in zip(("weight", "bias"), zip(*grads, strict=True), strict=False):
        assert_derived(name, mine, theirs, getattr(exact, f"grad_{name}"), torch.bfloat16)
        assert mine.dtype is torch.float32
    for name in ("running_mean", "running_var"):
        mine, theirs = getattr(ours[1], name), getattr(its[1], name)
        assert_derived(name, mine, theirs, getattr(exact, name), torch.float32)


def expected(hidden, running, its, training, grad_y):
    arguments = (hidden.detach(), grad_y.detach(), running, its.weight, its.bias)
    compute = reference.step if training else reference.evaluate
    return compute(*arguments, eps=its.eps, activation="relu")


@each_half
@each_size
@each_mode
def test_half_input_of_a_float32_layer(dtype, size, training):
    ours, its = pair(activation="silu")
    ours.train(training), its.train(training)
    x = batch(size=size).to(dtype)
    grad_y = batch(size=size, seed=1).to(dtype)
    running = (ours.running_mean.clone(), ours.running_var.clone())
    compute = reference.step if training else reference.evaluate
    exact = compute(x, grad_y, running, ours.weight, ours.bias, activation="silu")
    results = []
    for made in (ours, its):
        leaf = x.clone().requires_grad_()
        y = made(leaf)
        y.backward(grad_y)
        norm = made if made is ours else made[0]
        assert y.dtype is leaf.grad.dtype is dtype
        assert norm.weight.grad.dtype is norm.running_mean.dtype is torch.float32
        results.append((y, leaf.grad, norm.running_mean, norm.running_var))
    names = ("output", "grad_input", "running_mean", "running_var")
    for name, mine, theirs in zip(names, *results, strict=True):
        inner = torch.float32 if name.startswith("running") else dtype
        assert_derived(name, mine, theirs, getattr(exact, name), inner, terms=4.0)


@each_half
@each_option
def test_half_layer_computes_what_a_float32_layer_does_with_its_parameters(dtype, options):
    half = layer(options=options).to(dtype)
    full = layer(options=options)
    full.load_state_dict(half.state_dict())
    x = batch().to(dtype)
    assert torch.equal(half(x), full(x))
    for name in ("running_mean", "running_var"):
        assert getattr(half, name).dtype is torch.float32
        assert torch.equal(getattr(half, name), getattr(full, name))


@each_half
@pytest.mark.parametrize("momentum", [0.1, 0.01, 0.001])
def test_statistics_of_a_half_model_reach_the_truth(dtype, momentum):
    """Kept in bfloat16 they would stop where a step is less than half an ulp."""
    made = bn.BatchNorm1d(1, momentum=momentum).to(dtype)
    x = MEAN_1_VAR_4.to(dtype)
    steps = round(8 / momentum)
    for _ in range(steps):
        made(x)
    start = (1 - momentum) ** steps
    # Each update rounds once; of all roundings momentum·Σ(1 − momentum)^k survives.
    tolerance = {"rtol": 2 * torch.finfo(torch.float32).eps / momentum, "atol": 0}
    for found, truth, initial in ((made.running_mean, 1.0, 0.0), (made.running_var, 4.0, 1.0)):
        torch.testing.assert_close(
            found, torch.tensor([truth + start * (initial - truth)]), **tolerance
        )


@each_half
def test_half_model_whose_statistics_overflow_half(dtype):
    """Values of float16 below its maximum have a variance far above it."""
    made = bn.BatchNorm1d(1, momentum=1.0).to(dtype)
    x = torch.tensor([[-3e4], [3e4]]).to(dtype)
    made(x)
    torch.testing.assert_close(made.running_var, 2 * x[1].float().square())
    assert made.num_nonfinite.tolist() == [0]
    normalized = x.float() / made.running_var.sqrt()
    rounding = {"rtol": torch.finfo(dtype).eps, "atol": 0}
    torch.testing.assert_close(made.eval()(x).float(), normalized, **rounding)
