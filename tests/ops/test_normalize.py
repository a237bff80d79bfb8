"""Which route is taken, and what the autograd Function keeps for its backward pass."""

import pytest
import torch

from batchnorm import ops
from batchnorm.ops.activation import ACTIVATIONS
from batchnorm.ops.affine import Affine, finish
from batchnorm.ops.normalize import SMALL, by_batch, by_constants, by_shares
from cases import ALL_ROUTES, take_route

CHANNELS = 3


def function_used(y):
    nodes, found = [y.grad_fn], False
    while nodes:
        node = nodes.pop()
        if node is not None:
            found |= "Normalize" in type(node).__name__
            nodes += [other for other, _ in node.next_functions]
    return found


def vectors():
    return torch.ones(CHANNELS), torch.zeros(CHANNELS)


def call(phase, x, after):
    if phase == "batch":
        return by_batch(x, after, 1e-5)[0]
    if phase == "constants":
        return by_constants(x, *vectors(), after, 1e-5)
    share = torch.full((len(x), 1), 1 / len(x))
    known = torch.ones(CHANNELS).bool()
    return by_shares(x, share, known, None, after, 1e-5)[0]


each_phase = pytest.mark.parametrize("phase", ["batch", "shares", "constants"])


@each_phase
@pytest.mark.parametrize("more", [0, 1])
def test_our_function_is_for_large_tensors_without_a_kernel(phase, more, monkeypatch):
    take_route(monkeypatch, "torch-autograd")
    x = torch.randn(SMALL // CHANNELS + more, CHANNELS, requires_grad=True)
    assert function_used(call(phase, x, Affine())) is bool(more)


@each_phase
@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("name", [None, *ACTIVATIONS])
def test_our_function_keeps_the_input_and_one_tensor_for_the_activation(
    name, residual, phase, monkeypatch
):
    take_route(monkeypatch, "function-aten")
    x = torch.randn(8, CHANNELS, requires_grad=True)
    act = ACTIVATIONS.get(name)
    after = Affine(*vectors(), torch.randn(8, CHANNELS) if residual else None, act)
    sizes = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t.numel()), lambda t: t):
        call(phase, x, after)
    of_x = sum(size == x.numel() for size in sizes)
    one_more = act is not None and (act.from_output or residual)
    assert of_x == 1 + one_more


@pytest.mark.parametrize("route", ALL_ROUTES)
def test_the_statistics_that_are_returned_are_constants(route, monkeypatch):
    take_route(monkeypatch, route)
    x = torch.randn(8, CHANNELS, requires_grad=True)
    y, mean, var = by_batch(x, Affine(), 1e-5)
    assert y.requires_grad
    assert not mean.requires_grad
    assert not var.requires_grad
    torch.testing.assert_close((mean, var), (x.mean(0), x.var(0)))


def test_finish_adds_the_residual_before_the_activation_and_rounds_last():
    z = torch.tensor([1.00390625, -3.0])
    after = Affine(residual=torch.tensor([0.00390625, 1.0]), act=ACTIVATIONS["relu"])
    y = finish(z, after, torch.bfloat16)
    assert y.dtype is torch.bfloat16
    assert y.tolist() == [1.0078125, 0.0]
    assert finish(z, Affine(), torch.float32) is z


def test_kernels_are_chosen_by_device():
    assert ops.kernels(torch.ones(2, 3)) is ops.aten
    assert ops.kernels(torch.ones(2, 3, device="meta")) is ops.composite


def test_a_function_transform_takes_the_kernels_that_have_its_rules():
    seen = []
    torch.func.vmap(lambda x: seen.append(ops.kernels(x)) or x)(torch.ones(2, 3))
    assert seen == [ops.composite]
