"""The arms of a seed share their weights, and differ in what they are meant to differ."""

import sys

import pytest
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from batchnorm.study.data import pool, split
from batchnorm.study.design import BATCH_NORM, DEFAULT_INIT, GRID, NONE, TrialConfig, make_design
from batchnorm.study.models import build

PROBLEM = make_design(depth=3, width=32, steps=10).problem
DATA = split(pool(None), 0, "standardize")


def network(arm, activation="relu", seed=0, problem=PROBLEM, size=None):
    return build(TrialConfig(problem, GRID, activation, arm, seed, 0.1, size), DATA)


def weights(model):
    return [m.weight for m in model.modules() if isinstance(m, nn.Linear)]


@pytest.mark.parametrize("activation", ["sigmoid", "relu"])
def test_with_and_without_bn_start_from_the_same_weights(activation):
    arms = (weights(network(arm, activation)) for arm in (NONE, BATCH_NORM))
    pairs = zip(*arms, strict=True)
    compared = [torch.equal(a, b) for a, b in pairs]
    assert compared == [True] * 4


def test_seeds_differ():
    assert not torch.equal(weights(network(NONE))[0], weights(network(NONE, seed=1))[0])


def test_batch_norm_stands_before_every_hidden_activation_and_replaces_the_bias():
    kinds = [type(m).__name__ for m in network(BATCH_NORM)]
    assert kinds == ["Linear", "BatchNorm1d", "ReLU"] * 3 + ["Linear"]
    linear = [m for m in network(BATCH_NORM) if isinstance(m, nn.Linear)]
    assert [m.bias is None for m in linear] == [True, True, True, False]


@pytest.mark.parametrize(
    ("activation", "gain", "fan"),
    [("relu", 2**0.5, "in"), ("sigmoid", 4.0, "both"), ("tanh", 1.0, "both")],
)
def test_each_activation_gets_the_initialization_meant_for_it(activation, gain, fan):
    problem = make_design(depth=3, width=512, steps=10).problem
    weight = weights(network(NONE, activation, problem=problem))[1]
    expected = gain / 512**0.5  # fan-in and fan-out are both 512
    assert float(weight.detach().std()) == pytest.approx(expected, rel=0.02)
    assert fan in {"in", "both"}


def test_the_third_arm_is_what_pytorch_gives():
    torch.manual_seed(0)
    expected = nn.Linear(64, 32)
    built = network(DEFAULT_INIT)
    assert torch.equal(weights(built)[0], expected.weight)
    assert torch.equal(built[0].bias, expected.bias)


def test_virtual_batches_reach_every_layer():
    model = network(BATCH_NORM, size=8)
    sizes = [m.virtual_batch_size for m in model.modules() if isinstance(m, _BatchNorm)]
    assert sizes == [8, 8, 8]


NET = """
from torch import nn
import torch
def make(norm):
    return nn.Sequential(nn.Linear(64, 8), norm(8), nn.ReLU(), nn.Linear(8, 10))
def optional(norm=None):
    return make(norm)
def defaulted(width=8):
    return nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 10))
def random_in_norm(norm):
    n = norm(8)
    if not isinstance(n, nn.Identity):
        torch.rand(3)   # spoils the stream of the later layers
    return nn.Sequential(nn.Linear(64, 8), n, nn.ReLU(), nn.Linear(8, 10))
"""


@pytest.mark.parametrize("name", ["make", "optional", "defaulted", "random_in_norm"])
def test_a_users_factory_serves_both_arms(name, tmp_path, monkeypatch):
    (tmp_path / "net.py").write_text(NET)
    monkeypatch.setattr(sys, "path", sys.path.copy())
    problem = make_design(model=f"{tmp_path}/net.py:{name}", steps=10).problem
    plain, with_bn = (network(arm, problem=problem) for arm in (NONE, BATCH_NORM))
    assert not any(isinstance(m, _BatchNorm) for m in plain.modules())
    assert sum(isinstance(m, _BatchNorm) for m in with_bn.modules()) == 1
    for a, b in zip(weights(plain), weights(with_bn), strict=True):
        assert torch.equal(a, b)
