"""Claim 4 against a loop over units, samples and positions."""

import dataclasses
import math

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from batchnorm.study.claims.dead_units import count_dead, dead_mask, dead_share, saturation
from batchnorm.study.outcome import DeadCount
from batchnorm.study.training import DIVERGED

from ..cases import (
    FACTORIES,
    dense,
    moved,
    networks,
    problem_for,
    small_design,
    study,
    unroll,
    values_of_units,
    verdicts,
    written,
)

RELUS = {"dense": [0], "dropout": [0]}
"""Which activations are ReLUs, where not all are."""


def push_down(model, by):
    """Shift the first layer (or its normalization) down, so that some of its units die."""
    layer = model[1] if isinstance(model[1], nn.modules.batchnorm._BatchNorm) else model[0]
    with torch.no_grad():
        layer.bias -= torch.linspace(0, by, len(layer.bias)).to(layer.bias)
    return model


def dead_by_hand(name, model, x):
    inputs = unroll(model, x)[0]
    relus = RELUS.get(name.removesuffix(", BN"), range(len(inputs)))
    dead = []
    for i in relus:
        for unit in values_of_units(inputs[i]):
            fired = False
            for value in unit:
                fired = fired or max(value, 0.0) > 0.0
            dead.append(not fired)
    return dead


@pytest.mark.parametrize("by", [0.0, 3.0, 30.0])
@pytest.mark.parametrize("name", FACTORIES)
def test_unit_is_dead_when_no_sample_at_no_position_switches_it_on(name, by):
    model, x, _ = problem_for(FACTORIES[name])
    push_down(model, by)
    assert dead_mask(model, x).tolist() == dead_by_hand(name, model, x)


def test_the_cases_contain_living_and_dead_units():
    masks = []
    for make in FACTORIES.values():
        model, x, _ = problem_for(make)
        masks.append(dead_mask(push_down(model, 30.0), x))
    assert all(mask.any() and not mask.all() for mask in masks)


def test_unit_at_exactly_zero_is_dead():
    model = nn.Sequential(nn.Linear(1, 2), nn.ReLU())
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[-1.0], [-1.0]]))
        model[0].bias.copy_(torch.tensor([0.0, 1e-3]))
    x = torch.tensor([[0.0], [2.0]])
    assert dead_mask(model, x).tolist() == [True, False]


def test_one_sample_of_all_is_enough_to_live():
    model = nn.Sequential(nn.Linear(1, 1, bias=False), nn.ReLU())
    nn.init.constant_(model[0].weight, 1.0)
    x = -torch.ones(100, 1)
    x[63] = 1e-6
    assert dead_mask(model, x).tolist() == [False]
    assert dead_mask(model, x[:63]).tolist() == [True]


def test_relu6_can_die_and_leaky_relu_cannot():
    model = nn.Sequential(nn.Linear(1, 1), nn.ReLU6(), nn.Linear(1, 1), nn.LeakyReLU())
    for layer in (model[0], model[2]):
        nn.init.zeros_(layer.weight)
        nn.init.constant_(layer.bias, -1.0)
    assert dead_mask(model, torch.ones(3, 1)).tolist() == [True]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_network_that_is_not_finite_is_refused(bad):
    model, x, _ = problem_for(dense)
    born = dead_mask(model, x)
    nn.init.constant_(model[0].bias, bad)
    assert dead_mask(model, x) is None
    assert count_dead(born, model, x) is None


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_saturation_of_what_is_not_finite_is_refused(bad):
    model = nn.Sequential(nn.Linear(1, 2), nn.Sigmoid(), nn.Linear(2, 2), nn.Tanh())
    nn.init.constant_(model[0].bias, bad)
    assert saturation(model, torch.ones(3, 1)) is None


def test_diverged_sigmoid_network_is_refused_too():
    model = nn.Sequential(nn.Linear(1, 1), nn.Sigmoid())
    nn.init.constant_(model[0].weight, math.nan)
    assert count_dead(None, model, torch.ones(3, 1)) is None


def test_born_dead_died_and_revived_are_told_apart():
    model = nn.Sequential(nn.Linear(1, 4, bias=True), nn.ReLU())
    nn.init.zeros_(model[0].weight)
    x = torch.ones(3, 1)

    def with_bias(*bias):
        with torch.no_grad():
            model[0].bias.copy_(torch.tensor(bias))
        return model

    born = dead_mask(with_bias(-1.0, -1.0, 1.0, 1.0), x)
    count = count_dead(born, with_bias(-1.0, 1.0, -1.0, 1.0), x)

    assert count == DeadCount(units=4, born_dead=2, died=1, revived=1, dead=2, saturated=None)
    assert count.dead == count.born_dead + count.died - count.revived


@networks
def test_counts_agree_with_the_masks_they_compare(make):
    model, x, _ = problem_for(make)
    end = push_down(moved(model), 10.0)
    before, after = dead_mask(model, x).tolist(), dead_mask(end, x).tolist()

    count = count_dead(dead_mask(model, x), end, x)

    pairs = list(zip(before, after, strict=True))
    assert (count.units, count.born_dead, count.dead) == (len(pairs), sum(before), sum(after))
    assert count.died == pairs.count((False, True))
    assert count.revived == pairs.count((True, False))


def saturated_by_hand(model, x):
    flat = []
    activations = [m for m in model if isinstance(m, nn.Sigmoid | nn.Tanh | nn.ReLU)]
    for module, h in zip(activations, unroll(model, x)[0], strict=True):
        for value in h.reshape(-1).tolist():
            if isinstance(module, nn.Sigmoid):
                s = 1 / (1 + math.exp(-value))
                flat.append(s * (1 - s) < 0.01 * 0.25)
            elif isinstance(module, nn.Tanh):
                flat.append(1 - math.tanh(value) ** 2 < 0.01)
    return sum(flat) / len(flat)


@pytest.mark.parametrize("scale", [1.0, 8.0])
@pytest.mark.parametrize("name", ["dense", "dropout", "dense, BN", "dropout, BN"])
def test_saturation_is_the_share_of_slopes_below_one_percent_of_the_steepest(name, scale):
    model, x, _ = problem_for(FACTORIES[name])
    layer = next(m for m in reversed(model[:-1]) if hasattr(m, "weight"))
    with torch.no_grad():
        layer.weight *= scale
    assert saturation(model, x) == pytest.approx(saturated_by_hand(model, x), abs=1e-6)


def test_saturation_by_hand():
    model = nn.Sequential(nn.Linear(1, 1, bias=False), nn.Sigmoid(), nn.Tanh())
    nn.init.constant_(model[0].weight, 1.0)
    # sigmoid'(6) = 0.00247 < 0.0025 < sigmoid'(5.9); tanh receives values of at most 1
    x = torch.tensor([[6.0], [5.9], [0.0], [-6.0]])
    assert_close(saturation(model, x), 2 / 8)
    assert saturation(nn.Sequential(nn.Linear(1, 1), nn.ReLU()), x) is None


def test_difference_is_dead_share_without_minus_with():
    evidence = study(lambda c: written(c, dead=30 if c.arm == "none" else 10))
    assert dead_share(evidence.probe("relu", "none", "best", 0)) == 0.3
    assert verdicts(evidence)["4"].headline.differences == pytest.approx((0.2,) * 6)


def test_sigmoid_units_cannot_be_dead_is_the_reason_given():
    evidence = study(lambda c: written(c, dead=None), small_design(activations=("sigmoid",)))
    test = verdicts(evidence)["4"]
    assert test.headline.verdict == "not measurable"
    assert {cell.reason for cell in test.cells} == {
        "sigmoid units are never exactly off, so that they cannot be dead"
    }


@pytest.mark.parametrize("status", [DIVERGED, "failed"])
def test_relus_of_diverged_arms_are_not_said_to_be_never_off(status):
    evidence = study(
        lambda c: dataclasses.replace(written(c, status=status, accuracy=0.1), dead=None)
    )
    for cell in verdicts(evidence)["4"].cells:
        assert cell.verdict == "not measurable"
        assert cell.reason == (
            "without batch normalization 6 of 6 runs diverged or did not learn; "
            "with it 6 of 6 runs diverged or did not learn"
        )


def test_network_without_activation_modules_is_not_said_to_be_never_off():
    evidence = study(lambda c: dataclasses.replace(written(c), dead=None))
    reasons = {cell.reason for cell in verdicts(evidence)["4"].cells}
    assert reasons == {"a run of it has failed or cannot be measured"}
