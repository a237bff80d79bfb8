"""torch.compile makes one graph of every option and every call, and computes what eager does."""

import copy

import pytest
import torch
from torch import nn
from torch._inductor.cpp_builder import get_cpp_compiler
from torch._inductor.exc import InvalidCxxCompiler

import batchnorm as bn

from .cases import (
    ACTIVATIONS,
    CALLS,
    assert_close,
    batch,
    call_arguments,
    each_mode,
    each_size,
    layer,
    state,
)
from .training import plainly, train

# Every option and every call at least once: compiling takes long.
each_option_and_call = pytest.mark.parametrize(
    ("options", "kind"),
    [
        ("fused", "residual"),
        ("virtual", "mask"),
        pytest.param("plain", "plain", marks=pytest.mark.slow),
        pytest.param("average", "sample_weight", marks=pytest.mark.slow),
        pytest.param("renorm", "mask", marks=pytest.mark.slow),
    ],
)
pytestmark = pytest.mark.usefixtures("fresh_compiler")


def has_compiler():
    try:
        get_cpp_compiler()
    except InvalidCxxCompiler:
        return False
    return True


def inductor(test):
    """Mark a test that needs a C++ compiler, and time."""
    needs = pytest.mark.skipif(not has_compiler(), reason="inductor needs a C++ compiler")
    ignored = pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated")
    return pytest.mark.slow(needs(ignored(test)))


def assert_compiles(made, arguments=None, size="small", backend="aot_eager"):
    """Train a layer and a compiled copy; in float64 everything is the same, up to rounding."""
    made, arguments = made.double(), arguments or {}
    other = copy.deepcopy(made)
    call = torch.compile(other, backend=backend, fullgraph=True)
    expected = train(made, lambda made, x: made(x, **arguments), size=size)
    found = train(other, lambda _, x: call(x, **arguments), size=size)
    assert_close(found, expected, rtol=1e-9, atol=1e-9)
    assert not any(buffer.requires_grad for buffer in other.buffers())


def everything():
    """All arguments of a call at once."""
    arguments = {}
    for kind in CALLS:
        arguments |= call_arguments(kind, batch(dtype=torch.float64))
    return arguments


@each_option_and_call
@each_mode
def test_every_option_and_call(options, kind, training):
    made = layer(options=options).train(training)
    assert_compiles(made, call_arguments(kind, batch(dtype=torch.float64)))


@pytest.mark.slow
@pytest.mark.parametrize(("options", "kind"), [("fused", "mask"), ("virtual", "residual")])
def test_large_tensors(options, kind):
    x = batch(size="large", dtype=torch.float64)
    assert_compiles(layer(options=options), call_arguments(kind, x), "large")


@pytest.mark.slow
def test_every_activation():
    assert_compiles(nn.Sequential(*(layer(activation=activation) for activation in ACTIVATIONS)))


@pytest.mark.slow
@pytest.mark.parametrize(
    "more",
    [
        {"affine": False},
        {"bias": False},
        {"track_running_stats": False},
        {"nonfinite": "propagate"},
        {"nonfinite": "raise"},
        {"degenerate": "running"},
    ],
    ids=str,
)
def test_every_other_option(more):
    assert_compiles(layer(**more))


@pytest.mark.slow
@pytest.mark.parametrize("options", ["virtual", "renorm"])
def test_everything_at_once(options):
    made = layer(options=options, activation="gelu", degenerate="running")
    assert_compiles(made, everything())


def test_network():
    torch.manual_seed(0)
    body = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 1)
    assert_compiles(nn.Sequential(body[0], layer(activation="relu"), body[1], layer()))


@pytest.mark.slow
@each_size
def test_compiled_network_in_float32(size):
    """Rounding differs by what the compiler does to the order of sums, and by no more."""
    made = layer(activation="relu")
    call = torch.compile(copy.deepcopy(made), backend="aot_eager", fullgraph=True)
    found = train(call._orig_mod, lambda _, x: call(x), size=size)
    expected = train(made, plainly, size=size)
    assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_compiled_layer_under_autocast():
    made, other = layer(activation="relu"), layer(activation="relu")
    call = torch.compile(other, backend="aot_eager", fullgraph=True)
    x = batch()
    with torch.autocast("cpu", torch.bfloat16):
        y, expected = call(x.bfloat16()), made(x.bfloat16())
    assert y.dtype is expected.dtype is torch.bfloat16
    torch.testing.assert_close(y, expected)
    assert_close(state(other), state(made))


def test_one_value_per_channel_raises_when_compiled():
    made = bn.BatchNorm1d(3)
    with pytest.raises(Exception, match="more than 1 value per channel"):
        torch.compile(made, backend="aot_eager", fullgraph=True)(torch.ones(1, 3))
    assert made.num_batches_tracked == 0


@inductor
def test_inductor_in_evaluation():
    assert_compiles(layer(options="fused").eval(), backend="inductor")


@inductor
def test_inductor_with_everything_at_once():
    made = layer(options="renorm", degenerate="running")
    assert_compiles(made, everything(), backend="inductor")
