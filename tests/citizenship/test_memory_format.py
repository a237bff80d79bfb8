"""channels_last goes in and comes out, in the forward and in the backward pass."""

import pytest
import torch
from torch import nn

import batchnorm as bn

from .cases import CALLS, batch, call_arguments, each_mode, each_option, layer

FORMATS = {bn.BatchNorm2d: torch.channels_last, bn.BatchNorm3d: torch.channels_last_3d}
each_class = pytest.mark.parametrize("cls", FORMATS, ids=lambda cls: cls.__name__)
each_call = pytest.mark.parametrize("kind", CALLS)


def run(made, x, memory_format, arguments):
    """Output and gradient of the input, and of the residual if there is one."""
    x = x.contiguous(memory_format=memory_format).requires_grad_()
    leaves = [x]
    if "residual" in arguments:
        residual = arguments["residual"].contiguous(memory_format=memory_format).requires_grad_()
        arguments, leaves = {"residual": residual}, [x, residual]
    y = made(x, **arguments)
    # Not x.grad: that has the memory format of x whatever it was computed in.
    return y, *torch.autograd.grad(y.square().sum(), leaves)


def assert_kept(cls, options, kind, training, size):
    made = layer(cls, options).train(training)
    expected = layer(cls, options).train(training)
    x = batch(cls, size)
    arguments = call_arguments(kind, x)
    results = run(made, x, FORMATS[cls], arguments)
    contiguous = run(expected, x, torch.contiguous_format, arguments)
    for mine, other in zip(results, contiguous, strict=True):
        assert mine.is_contiguous(memory_format=FORMATS[cls])
        assert other.is_contiguous()
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(made.running_var, expected.running_var)


@each_class
@each_option
@each_call
@each_mode
def test_channels_last_is_kept(cls, options, kind, training):
    assert_kept(cls, options, kind, training, "small")


@each_class
@pytest.mark.parametrize("options", ["plain", "fused", "virtual"])
@pytest.mark.parametrize("kind", ["plain", "residual"])
@each_mode
def test_channels_last_is_kept_by_large_tensors(cls, options, kind, training):
    assert_kept(cls, options, kind, training, "large")


@each_mode
def test_channels_last_network_stays_channels_last(training):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(4, 6, 3, padding=1, bias=False),
        layer(channels=6, activation="relu"),
        nn.Conv2d(6, 4, 3, padding=1),
        layer(),
    )
    model = model.to(memory_format=torch.channels_last).train(training)
    seen = []
    for child in model:
        child.register_forward_hook(lambda module, args, output: seen.append(output))
        child.register_full_backward_hook(lambda module, grads, outputs: seen.append(grads[0]))
    x = batch(size="large").contiguous(memory_format=torch.channels_last).requires_grad_()
    model(x).square().sum().backward()
    assert len(seen) == 8
    assert all(tensor.is_contiguous(memory_format=torch.channels_last) for tensor in seen)


@pytest.mark.parametrize("shape", [(3, 1, 4, 5), (3, 4, 1, 1), (1, 4, 3, 2), (0, 4, 3, 2)], ids=str)
@each_mode
def test_shapes_that_are_both_formats_at_once(shape, training):
    """Strides of axes of size 1 say nothing; torch's layer is the judge of what comes out."""
    made, its = bn.BatchNorm2d(shape[1]), nn.BatchNorm2d(shape[1])
    x = torch.arange(float(torch.Size(shape).numel())).reshape(shape)
    for memory_format in (torch.contiguous_format, torch.channels_last):
        y, expected = (
            norm.train(training)(x.contiguous(memory_format=memory_format)) for norm in (made, its)
        )
        torch.testing.assert_close(y, expected)
        for each in (torch.contiguous_format, torch.channels_last):
            assert y.is_contiguous(memory_format=each) >= expected.is_contiguous(memory_format=each)
