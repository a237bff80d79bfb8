"""What rules find in single channels: constant, dead, and small beside eps."""

import pytest
import torch
from torch import nn

from .test_rules import data, findings, mlp, seen, severities


def test_a_constant_channel_may_have_been_rounded():
    x = data()
    noise = torch.rand(32, generator=torch.Generator().manual_seed(1))
    for batch in x:
        batch[:, 2] = 1e6 + 0.1 * noise  # float32 has a spacing of 0.06 there
        batch[:, 4] = 1e-6 * noise
    evidence = seen(nn.Sequential(nn.BatchNorm1d(6), nn.Linear(6, 2)), x)
    (found,) = findings("constant_channels", evidence)
    assert found.numbers == {"channels": 1.0, "of": 6.0}
    assert "(2)" in found.what


def test_eps_asks_the_channels_that_change():
    x = [batch * torch.tensor([0.0, 0.0, 0.0, 0.0, 1.0, 1.0]) for batch in data()]
    model = nn.Sequential(nn.BatchNorm1d(6), nn.Linear(6, 2))
    assert not findings("eps_too_large", seen(model, x))
    assert findings("eps_too_large", seen(model, [batch / 1000 for batch in data()]))
    model[0].eps = 1e-8
    assert not findings("eps_too_large", seen(model, [batch / 1000 for batch in data()]))


def with_affine(weight, bias, activation=nn.ReLU):
    model = mlp()
    model[2] = activation()
    with torch.no_grad():
        model[1].weight.copy_(torch.as_tensor(weight).expand(12))
        model[1].bias.copy_(torch.as_tensor(bias).expand(12))
    return model


@pytest.mark.parametrize(
    ("weight", "bias", "activation", "expected"),
    [
        (1.0, -9.0, nn.ReLU, 12.0),
        (-1.0, -9.0, nn.ReLU, 12.0),
        (-1.0, -1.0, nn.ReLU, None),
        (1.0, -9.0, nn.GELU, None),
        (1e-4, 1.0, nn.GELU, 12.0),
        (1e-4, 1.0, nn.ReLU, 12.0),
    ],
)
def test_dead_is_what_no_activation_lets_through(weight, bias, activation, expected):
    evidence = seen(with_affine(weight, bias, activation), data())
    found = findings("dead_channels", evidence)
    assert [f.numbers["channels"] for f in found] == ([expected] if expected else [])


@pytest.mark.parametrize(("weight", "dead"), [(1.0, 0), (-1.0, 6)])
def test_the_sign_of_a_weight_turns_a_skewed_channel(weight, dead):
    model = nn.Sequential(nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 2))
    nn.init.constant_(model[0].weight, weight)
    nn.init.constant_(model[0].bias, -2.0)
    skewed = [batch.exp() for batch in data()]  # no more than 1 below its mean, and 2 above
    found = findings("dead_channels", seen(model, skewed))
    assert sum(f.numbers["channels"] for f in found) == dead


def test_few_dead_channels_and_a_new_branch_are_worth_knowing():
    few = seen(with_affine(1.0, [-9.0] * 2 + [0.0] * 10), data())
    assert severities("dead_channels", few) == [("1", "information")]
    new = seen(with_affine(0.0, 0.0), data())
    assert severities("dead_channels", new) == [("1", "information")]
    assert "exactly 0" in findings("dead_channels", new)[0].what
