"""Modules that hold a normalization of their own."""

import copy
import io
import pickle

import pytest
import torch
from torch import nn

import batchnorm as bn
from batchnorm.surgery import kinds, normed

from .nets import Net


class Scaled(nn.Linear):
    def forward(self, x):
        return 2 * super().forward(x)


def held(module, side, channels, channels_last=False):
    norm = bn.BatchNorm1d(channels)
    normed.hold(module, side, norm, channels_last)
    return module


def test_output_is_normalized():
    layer, x = nn.Linear(3, 4), torch.randn(8, 3)
    y = layer(x)
    held(layer, "output", 4)
    torch.testing.assert_close(layer(x), bn.BatchNorm1d(4)(y))


def test_input_is_normalized():
    layer, x = nn.Linear(3, 4), torch.randn(8, 3)
    wanted = layer(bn.BatchNorm1d(3)(x))
    torch.testing.assert_close(held(layer, "input", 3)(x), wanted)


def test_both_sides():
    layer, x = nn.Linear(3, 4), torch.randn(8, 3)
    wanted = bn.BatchNorm1d(4)(layer(bn.BatchNorm1d(3)(x)))
    first, second = copy.deepcopy(layer), copy.deepcopy(layer)
    held(held(first, "input", 3), "output", 4)
    held(held(second, "output", 4), "input", 3)
    assert type(first) is type(second)
    torch.testing.assert_close(first(x), wanted)
    torch.testing.assert_close(second(x), wanted)


def test_each_position_counts_where_channels_are_last():
    layer, x = nn.Linear(3, 4), torch.randn(2, 5, 3)
    y = layer(x)
    standardized = (y - y.mean((0, 1))) / (y.var((0, 1), correction=0) + 1e-5).sqrt()
    found = held(layer, "output", 4, channels_last=True)(x)
    torch.testing.assert_close(found, standardized)


def test_options_of_the_call_reach_the_layer():
    layer, x = nn.ConvTranspose2d(3, 4, 3, stride=2), torch.randn(2, 3, 4, 4)
    normed.hold(layer, "output", bn.BatchNorm2d(4), channels_last=False)
    assert layer(x, output_size=[10, 10]).shape == (2, 4, 10, 10)


@pytest.mark.parametrize("side", ["output", "input"])
@pytest.mark.parametrize("cls", kinds.DIM_BY_LAYER, ids=lambda cls: cls.__name__)
def test_classes_of_layers_are_found_by_pickle(cls, side):
    layer = cls(4, 4) if cls is nn.Linear else cls(4, 4, 2)
    x = torch.randn(3, 4, *[5] * (0 if cls is nn.Linear else kinds.dim_of(layer)))
    norm = {1: bn.BatchNorm1d, 2: bn.BatchNorm2d, 3: bn.BatchNorm3d}[kinds.dim_of(layer)](4)
    normed.hold(layer, side, norm, channels_last=False)
    assert isinstance(layer, cls) and type(layer).__name__.endswith(cls.__name__)
    assert getattr(normed, type(layer).__name__) is type(layer)
    for twin in (pickle.loads(pickle.dumps(layer)), copy.deepcopy(layer)):
        assert type(twin) is type(layer) and repr(twin) == repr(layer)
        assert torch.equal(twin.eval()(x), layer.eval()(x))


def test_a_class_of_the_user_keeps_its_forward_and_is_saved():
    layer, x = Scaled(3, 4), torch.randn(5, 3)
    wanted = layer(x)
    held(layer, "output", 4).eval()
    assert isinstance(layer, Scaled)
    assert not normed.only_normalizes(layer)
    torch.testing.assert_close(layer(x), wanted / (1 + 1e-5) ** 0.5)
    file = io.BytesIO()
    torch.save(layer, file)
    file.seek(0)
    twin = torch.load(file, weights_only=False)
    assert type(twin) is type(layer) is type(copy.deepcopy(layer))
    assert torch.equal(twin(x), layer(x))


def test_a_parametrized_layer_stays_parametrized():
    layer, x = nn.utils.parametrizations.weight_norm(nn.Linear(3, 4)), torch.randn(6, 3)
    wanted = layer.eval()(x) / (1 + 1e-5) ** 0.5
    held(layer, "output", 4)
    twin = copy.deepcopy(layer)
    torch.testing.assert_close(twin(x), wanted)
    twin(x).sum().backward()
    assert twin.parametrizations.weight.original0.grad is not None
    nn.utils.parametrize.remove_parametrizations(twin, "weight")
    assert type(twin) is normed.PostNormLinear
    torch.testing.assert_close(twin(x), wanted)


def test_what_can_hold_a_normalization():
    layer = nn.Linear(3, 4)
    assert normed.can_hold(layer, "output") and normed.can_hold(layer, "input")
    held(layer, "output", 4)
    assert not normed.can_hold(layer, "output") and normed.can_hold(layer, "input")
    patched = nn.Linear(3, 4)
    patched.forward = lambda x: x
    assert not normed.can_hold(patched, "output")


def test_training_mode_follows():
    layer = nn.Linear(3, 4).eval()
    held(layer, "output", 4)
    assert not layer.norm.training
    assert layer.train().norm.training


@pytest.mark.parametrize("channels_last", [False, True])
def test_compiles_without_a_break(channels_last):
    x = torch.randn(4, 5, 3) if channels_last else torch.randn(4, 3)
    model = Net(lambda m, x: m.b(m.a(x).relu()), a=nn.Linear(3, 4), b=nn.Linear(4, 2))
    new = bn.insert(model, x)
    torch._dynamo.reset()
    compiled = torch.compile(new, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), copy.deepcopy(new)(x))


def test_exports():
    x = torch.randn(4, 5, 3)
    model = Net(lambda m, x: m.b(m.a(x).relu()), a=nn.Linear(3, 4), b=nn.Linear(4, 2)).eval()
    new = bn.insert(model, x)
    program = torch.export.export(new, (x,))
    torch.testing.assert_close(program.module()(x), new(x))
    assert {"a.norm.weight", "a.norm.bias"} <= program.state_dict.keys()
