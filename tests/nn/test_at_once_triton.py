"""A plain training step by kernels for GPUs, which know the policy of the running statistics."""

import pytest
import torch

from batchnorm.nn.batch_norm import BatchNorm, BatchNorm1d, BatchNorm2d
from batchnorm.nn.contexts import accumulate, no_update
from cases import take_route
from interpreter import ALONE, SHARED

from .cases import known, state

pytestmark = pytest.mark.slow


@pytest.fixture(params=[ALONE, SHARED], autouse=True)
def taken(request, monkeypatch):
    """For each forward, whether it was done at once."""
    take_route(monkeypatch, request.param)
    seen, original = [], BatchNorm._at_once

    def watched(self, *args):
        output = original(self, *args)
        seen.append(output is not None)
        return output

    monkeypatch.setattr(BatchNorm, "_at_once", watched)
    return seen


def rows(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def run(layer, x, residual, monkeypatch, at_once):
    """Output, gradients and buffers of a step."""
    with monkeypatch.context() as patch:
        if not at_once:
            patch.setattr(type(layer), "_at_once", lambda *_: None)
        x, residual = (t.clone().requires_grad_() for t in (x, residual))
        y = layer(x, residual)
        y.square().sum().backward()
    leaves = (x, residual, *layer.parameters())
    return [y.detach(), *(t.grad for t in leaves)], dict(layer.named_buffers())


OPTIONS = {
    "plain": {},
    "relu": {"activation": "relu"},
    "gelu": {"activation": "gelu"},
    "bare": {"affine": False},
    "momentum1": {"momentum": 1.0},
    "propagate": {"nonfinite": "propagate"},
}


@pytest.mark.parametrize("bad", [None, float("nan"), float("inf")], ids=str)
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_it_does_what_all_the_steps_do(options, bad, taken, monkeypatch):
    layers = [known(5, BatchNorm2d, **options) for _ in range(2)]
    layers[1].load_state_dict(layers[0].state_dict())
    x, residual = rows(3, 5, 4, 4), rows(3, 5, 4, 4, seed=1)
    if bad is not None:
        x[1, 2, 0, 3] = bad
    results = [run(layer, x, residual, monkeypatch, at_once=layer is layers[0]) for layer in layers]
    assert taken == [True]
    (ours, buffers), (expected, others) = results
    for a, b in zip(ours, expected, strict=True):
        assert torch.equal(a.nan_to_num(7.0), b.nan_to_num(7.0))
    for name, buffer in buffers.items():
        torch.testing.assert_close(buffer, others[name], rtol=1e-6, atol=1e-7, equal_nan=True)
    if bad is not None and "nonfinite" not in options:
        assert layers[0].num_nonfinite.tolist() == [0, 0, 1, 0, 0]


def test_the_buffers_know_that_they_were_changed(taken):
    layer = known(5)
    before = {name: t._version for name, t in layer.named_buffers()}
    layer(rows(8, 5))
    assert taken == [True]
    assert all(t._version > before[name] for name, t in layer.named_buffers())
    assert layer.num_batches_tracked == 6


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_moves_statistics_in_float32(dtype, taken):
    layer = known(5, BatchNorm1d).to(dtype)
    assert layer.running_mean.dtype is torch.float32
    y = layer(rows(8, 5).to(dtype))
    assert taken == [True]
    assert y.dtype is dtype
    expected = known(5, BatchNorm1d)
    expected(rows(8, 5).to(dtype).float())
    torch.testing.assert_close(layer.running_var, expected.running_var, rtol=1e-6, atol=0)


def test_evaluation_is_done_at_once(taken):
    layer = known(5, activation="silu").eval()
    before = state(layer)
    x = rows(8, 5)
    y = layer(x)
    assert taken == [True]
    z = torch.nn.functional.batch_norm(
        x, layer.running_mean, layer.running_var, layer.weight, layer.bias, eps=layer.eps
    )
    torch.testing.assert_close(y, torch.nn.functional.silu(z), rtol=1e-5, atol=1e-6)
    assert all(torch.equal(t, before[name]) for name, t in layer.named_buffers())


def test_what_is_more_than_plain_is_done_step_by_step(taken):
    layer = known(5)
    before = state(layer)
    with no_update(layer):
        layer(rows(8, 5))
    with accumulate(layer):
        layer(rows(8, 5))
        assert all(torch.equal(t, before[name]) for name, t in layer.named_buffers())
    known(5, nonfinite="raise")(rows(8, 5))
    known(5, momentum=None)(rows(8, 5))
    assert taken == [False] * 4
    assert layer.num_batches_tracked == 6
