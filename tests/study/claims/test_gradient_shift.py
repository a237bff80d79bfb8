"""Claim 1b against gradients by finite differences in an explicit network."""

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from batchnorm.study.claims.gradient_shift import (
    ShiftMeter,
    gradient_shift,
    parameters_by_layer,
)

from ..cases import (
    FACTORIES,
    cross_entropy,
    dense,
    moved,
    networks,
    problem_for,
    study,
    unroll,
    verdicts,
    written,
)

LAYERS = {
    "dense": [["0"], ["2"], ["4"]],
    "in place": [["0"], ["2"], ["4"]],
    "shared activation": [["0"], ["2"], ["4"]],
    "conv": [["0"], ["2"], ["5"]],
    "dropout": [["0"], ["3"], ["6"]],
}
"""Layers by hand, input side first; a normalization is part of the layer that it follows."""


def layers_of(name, model):
    rows = LAYERS[name.removesuffix(", BN")]
    parameters = dict(model.named_parameters())
    return [[n for n in parameters if n.split(".")[0].removesuffix("_norm") in row] for row in rows]


def numeric_gradient(loss, values, names, h=1e-6):
    """Central differences of loss(values) in every number of the named tensors, one by one."""
    found = []
    for name in names:
        for i in range(values[name].numel()):
            sides = []
            for sign in (1, -1):
                changed = values[name].clone()
                changed.view(-1)[i] += sign * h
                sides.append(float(loss({**values, name: changed})))
            found.append((sides[0] - sides[1]) / (2 * h))
    return np.array(found)


def shift_by_hand(layers, before, after, x, y, rng, chosen):
    old, new = ({n: p.detach().clone() for n, p in m.named_parameters()} for m in (before, after))

    def loss(values):
        torch.set_rng_state(rng)
        return cross_entropy(unroll(before, x, values, dropout=True)[1], y)

    relative, cosine = [], []
    for i in chosen:
        lower = [n for layer in layers[:i] for n in layer]
        g = numeric_gradient(loss, old, layers[i])
        shifted = numeric_gradient(loss, {**old, **{n: new[n] for n in lower}}, layers[i])
        relative.append(np.linalg.norm(g - shifted) / np.linalg.norm(g))
        cosine.append(g @ shifted / np.linalg.norm(g) / np.linalg.norm(shifted))
    return np.mean(relative), np.mean(cosine)


@pytest.mark.parametrize("name", FACTORIES)
def test_shift_is_how_much_gradients_change_when_the_layers_below_were_updated(name):
    model, x, y = problem_for(FACTORIES[name])
    after = moved(model, by=0.1)
    rng = torch.get_rng_state()
    layers = layers_of(name, model)
    relative, cosine = shift_by_hand(layers, model, after, x, y, rng, (1, 2))

    torch.set_rng_state(rng)
    point = gradient_shift(7, copy.deepcopy(model), after, x, y)

    assert point.step == 7
    assert point.relative == pytest.approx(relative, rel=1e-5)
    assert point.cosine == pytest.approx(cosine, rel=1e-5)


@networks
def test_meter_measures_a_real_update_by_its_own_batch(make):
    model, x, y = problem_for(make)
    before, meter = copy.deepcopy(model), ShiftMeter()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3)

    finish = meter.start(2, model, x, y)
    functional.cross_entropy(model(x), y).backward()
    optimizer.step()
    rng = torch.get_rng_state()
    finish()

    torch.set_rng_state(rng)
    assert meter.points == [gradient_shift(2, before, model, x, y)]
    assert meter.points[0].relative > 0


def test_no_update_is_no_shift_though_dropout_draws():
    model, x, y = problem_for(FACTORIES["dropout, BN"])
    point = gradient_shift(0, copy.deepcopy(model), model, x, y)
    assert (point.relative, point.cosine) == (0.0, pytest.approx(1.0))


def test_opposite_gradient_has_shift_2_and_cosine_minus_1():
    # scores (w2 w1 x, 0): turning the sign of w1 where its output is squared away is impossible,
    # so the loss is built to have the gradient w1 (p - 1) x in w2 with p = 1/2 at w2 = 0.
    model = nn.Sequential(nn.Linear(1, 1, bias=False), nn.Linear(1, 2, bias=False)).double()
    after = copy.deepcopy(model)
    nn.init.constant_(model[0].weight, 1.0)
    nn.init.constant_(after[0].weight, -1.0)
    for m in (model, after):
        nn.init.zeros_(m[1].weight)
    x, y = torch.ones(1, 1, dtype=torch.float64), torch.tensor([0])

    point = gradient_shift(0, model, after, x, y)

    assert (point.relative, point.cosine) == (pytest.approx(2.0), pytest.approx(-1.0))


def test_layers_are_evenly_spaced_where_there_are_more_than_eight():
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Linear(2, 2) for _ in range(12))).double()
    x, y = torch.randn(5, 2, dtype=torch.float64), torch.tensor([0, 1, 0, 1, 1])
    after = moved(model, by=0.05)
    layers = [[f"{i}.weight", f"{i}.bias"] for i in range(12)]
    expected = shift_by_hand(
        layers, model, after, x, y, torch.get_rng_state(), (1, 2, 4, 5, 7, 8, 10, 11)
    )

    point = gradient_shift(0, copy.deepcopy(model), after, x, y)

    assert (point.relative, point.cosine) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("name", FACTORIES)
def test_normalization_belongs_to_the_layer_it_follows(name):
    model, _, _ = problem_for(FACTORIES[name])
    named = {id(p): n for n, p in model.named_parameters()}
    found = [[named[id(p)] for p in layer] for layer in parameters_by_layer(model)]
    assert found == layers_of(name, model)


def test_frozen_lower_layer_does_not_stop_the_measurement():
    model, x, y = problem_for(dense)
    after = moved(model, by=0.1)
    for m in (model, after):
        m[0].requires_grad_(False)
    expected = shift_by_hand(
        [["2.weight", "2.bias"], ["4.weight", "4.bias"]],
        model,
        after,
        x,
        y,
        torch.get_rng_state(),
        (1,),
    )
    with torch.no_grad():
        after[0].weight.copy_(model[0].weight)
        after[0].bias.copy_(model[0].bias)

    point = gradient_shift(0, copy.deepcopy(model), after, x, y)

    assert (point.relative, point.cosine) == pytest.approx(expected, rel=1e-5)


def test_gradients_whose_squares_vanish_in_float32_are_measured():
    model = nn.Sequential(*(nn.Linear(*sizes, bias=False) for sizes in ((1, 1), (1, 2), (2, 2))))
    for layer, weight in zip(model, (1.0, 0.5, 1e-25), strict=True):
        nn.init.constant_(layer.weight, weight)
    with torch.no_grad():
        model[2].weight[1] = -1e-25
    after = copy.deepcopy(model)
    nn.init.constant_(after[0].weight, 1.25)  # both gradients above are proportional to it
    x, y = torch.ones(4, 1), torch.zeros(4, dtype=torch.int64)

    point = gradient_shift(0, model, after, x, y)

    assert (point.relative, point.cosine) == (pytest.approx(0.25), pytest.approx(1.0))


def test_cosine_of_tiny_gradients_is_not_rounded_to_zero():
    # The right class leads by about 30: gradients near 1e-13.
    model, x, y = problem_for(dense)
    with torch.no_grad():
        model[4].weight.zero_()
        model[4].bias.copy_(torch.tensor([30.0, 0.0, 0.0]))
        model[4].weight[0, 0] = 1.0
    after = moved(model, by=0.0)
    with torch.no_grad():
        after[0].weight.mul_(1.01)

    point = gradient_shift(0, copy.deepcopy(model), after, x, torch.zeros_like(y))

    assert 0.9 < point.cosine <= 1.0


@pytest.mark.parametrize(
    "model",
    [nn.Linear(4, 3), nn.Sequential(nn.Linear(4, 2), nn.ReLU(), nn.Linear(2, 3))],
    ids=["one layer", "zero gradient"],
)
def test_no_shift_without_a_second_layer_or_a_gradient(model):
    if isinstance(model, nn.Sequential):
        nn.init.zeros_(model[2].weight)
        nn.init.constant_(model[2].bias, math.nan)
    x, y = torch.randn(5, 4), torch.zeros(5, dtype=torch.int64)
    assert gradient_shift(0, copy.deepcopy(model), model, x, y) is None


def test_difference_is_the_logarithm_of_shift_without_over_shift_with():
    evidence = study(lambda c: written(c, shift=5.0 if c.arm == "none" else 1.0))
    assert verdicts(evidence)["1b"].headline.differences == pytest.approx((math.log(5.0),) * 6)
