"""Statistics that hold something else: the numbers by brute force, and what is found of them."""

import dataclasses
import math

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

import batchnorm as bn
from batchnorm.diagnosis import readings, sums, trials
from batchnorm.diagnosis.distances import distances
from batchnorm.diagnosis.rules import (
    exchanged_affine,
    exchanged_statistics,
    misread_variance,
    nonfinite_statistics,
    slow_momentum,
    stale_statistics,
    uncounted_statistics,
    undivided_statistics,
)

from .planted import diagnosed, healthy

pytestmark = pytest.mark.slow


SHARE = 1 - 0.99**30

STATISTICS = (misread_variance, exchanged_statistics, undivided_statistics)
OLD = (stale_statistics, slow_momentum, nonfinite_statistics)


@pytest.fixture(autouse=True)
def two_sides():
    """Examples draw from the global generator."""
    state = torch.get_rng_state()
    yield
    torch.set_rng_state(state)


@pytest.fixture(
    scope="module", params=["mlp", "resnet", pytest.param("unet", marks=pytest.mark.slow)]
)
def network(request):
    """The evidence of a healthy network, as its training has left it."""
    state = torch.get_rng_state()
    evidence = diagnosed(healthy.NETWORKS[request.param](0, fresh=False)).evidence
    torch.set_rng_state(state)
    return evidence


def with_layers(evidence, change):
    layers = {name: change(layer) for name, layer in evidence.layers.items()}
    return dataclasses.replace(evidence, layers=layers)


def holding(mean=lambda m, v: m, var=lambda m, v: v, updates=1000):
    """Put something else into the running statistics of a layer."""

    def change(layer):
        m, v = layer.running_mean, layer.running_var
        return dataclasses.replace(
            layer, running_mean=mean(m, v), running_var=var(m, v), num_batches_tracked=updates
        )

    return change


def found(rule, evidence):
    return [finding.layer for finding in rule.check(evidence)]


HELD = {
    "standard deviations": (misread_variance, holding(var=lambda m, v: (v + 1e-5).sqrt())),
    "inverse deviations": (misread_variance, holding(var=lambda m, v: (v + 1e-5).rsqrt())),
    "precisions": (misread_variance, holding(var=lambda m, v: 1 / v)),
    "mean squares": (misread_variance, holding(var=lambda m, v: v + m**2)),
    "exchanged": (exchanged_statistics, holding(lambda m, v: v, lambda m, v: m)),
    "hidden": (undivided_statistics, holding(lambda m, v: SHARE * m, lambda m, v: SHARE * v)),
    "began at one": (
        undivided_statistics,
        holding(lambda m, v: SHARE * m, lambda m, v: SHARE * v + 1 - SHARE),
    ),
    "divided too often": (
        undivided_statistics,
        holding(var=lambda m, v: v + (1 - SHARE) / SHARE),
    ),
}


@pytest.mark.parametrize("name", HELD)
def test_what_is_held_is_found_at_every_layer_where_it_matters(network, name):
    rule, change = HELD[name]
    evidence = with_layers(network, change)
    matters = [n for n, layer in evidence.layers.items() if _matters(layer)]
    assert len(matters) >= 0.6 * len(evidence.layers)
    assert set(matters) <= set(found(rule, evidence))
    for other in {*STATISTICS, *OLD} - {rule}:
        assert not set(found(other, evidence)) & set(found(rule, evidence)), other.__name__
    # What is not found there is small, or left to the rules about old statistics.
    assert not [n for other in set(STATISTICS) - {rule} for n in found(other, evidence)]


def _matters(layer):
    """Whether it makes a difference that can be told from another one."""
    far = distances(layer)
    means = float((layer.population_mean**2 / layer.population_var).mean() ** 0.5)
    return max(far.mean, far.log_std) > readings.OFF and means > 0.2


def test_what_a_healthy_network_holds_is_not_found(network):
    for rule in (*STATISTICS, *OLD, uncounted_statistics, exchanged_affine):
        assert found(rule, network) == []
    assert not network.trials


def _random(layer, generator):
    """Statistics that are old in one of several ways, and no other convention."""
    m, v = layer.population_mean, layer.population_var
    noise = [torch.randn(len(m), generator=generator, dtype=torch.float64) for _ in range(2)]
    factor = 4.0 ** float(torch.randn((), generator=generator))
    ways = (
        (m * factor, v * factor**2),  # data on another scale
        (m, v * factor),
        (m + noise[0] * v.sqrt(), v * noise[1].exp()),
        (m, v * noise[1].exp()),
        (noise[0], noise[1].exp()),  # another network's
        (m, torch.full_like(v, factor * float(v.mean()))),
        (m.flip(0), v.flip(0)),
    )
    return [dict(zip(("running_mean", "running_var"), way, strict=True)) for way in ways]


def test_statistics_that_are_merely_old_are_not_taken_for_something_else(network):
    generator = torch.Generator().manual_seed(0)
    alarms = []
    for _ in range(3):
        for layer in network.layers.values():
            for number, fields in enumerate(_random(layer, generator)):
                changed = dataclasses.replace(layer, num_batches_tracked=1000, **fields)
                if readings.is_something_else(changed) or sums.undivided(changed) is not None:
                    alarms.append((layer.name, number))
    assert not alarms, alarms


def test_few_channels_follow_anything(network):
    layer = next(iter(network.layers.values()))
    few = {
        key: getattr(layer, key)[: readings.FEWEST - 1]
        for key in ("running_mean", "running_var", "population_mean", "population_var")
    }
    small = dataclasses.replace(layer, runs={}, **few)
    assert readings.pairs(small) is None
    assert readings.exchanged(small) is sums.nearer(small) is None


def test_the_layers_own_updates_explain_what_they_leave(network):
    """After 30 updates with momentum 0.01, 0.74 of the first statistics is left: no port."""
    change = holding(lambda m, v: SHARE * m, lambda m, v: SHARE * v + 1 - SHARE, updates=30)

    def slow(layer):
        return dataclasses.replace(change(layer), momentum=0.01)

    evidence = with_layers(network, slow)
    assert found(undivided_statistics, evidence) == []
    assert set(found(slow_momentum, evidence)) >= {
        n for n, layer in evidence.layers.items() if _matters(layer)
    }


def test_the_kind_and_the_share_are_said(network):
    for name, kind in (("hidden", "zero"), ("began at one", "one"), ("divided too often", "over")):
        evidence = with_layers(network, HELD[name][1])
        for layer in evidence.layers.values():
            known = sums.undivided(layer)
            if known is not None:
                assert known.kind == kind
                assert known.share == pytest.approx(SHARE, abs=0.02)
    (first, *_) = undivided_statistics.check(with_layers(network, HELD["hidden"][1]))
    assert "times those of the data, as in an average that began at 0 and was" in first.what


# The numbers, by brute force.


def layer_of(change=None):
    """A layer of eight channels whose statistics are known."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.BatchNorm1d(8))
    batches = [
        torch.randn(32, 8) * torch.linspace(0.3, 2.0, 8) + torch.linspace(-1.0, 2.0, 8)
        for _ in range(6)
    ]
    bn.recalibrate(model, batches, progress=False)
    layer = model[0]
    with torch.no_grad():
        layer.weight.uniform_(0.5, 1.5)
        layer.bias.uniform_(-0.2, 0.8)
        if change is not None:
            change(layer)
    return bn.diagnose(model, batches, progress=False), torch.cat(batches).double(), layer


def moments(x):
    """Lists of the channels' means and variances."""
    means = [sum(column) / len(column) for column in x.T.tolist()]
    variances = [
        sum((v - m) ** 2 for v in column) / (len(column) - 1)
        for m, column in zip(means, x.T.tolist(), strict=True)
    ]
    return means, variances


def rms(values):
    values = list(values)
    return math.sqrt(sum(v * v for v in values) / len(values))


def half_log(found, predicted):
    return rms(0.5 * math.log(f / p) for f, p in zip(found, predicted, strict=True))


def halved(layer):
    layer.running_var.mul_(0.5)
    layer.running_mean.mul_(0.8)


def test_misread_by_brute_force():
    diagnosis, x, layer = layer_of(halved)
    means, variances = moments(x)
    held = layer.running_var.double().tolist()
    wide = [v + 1e-5 for v in variances]
    predicted = (
        [math.sqrt(v) for v in wide],
        [1 / math.sqrt(v) for v in wide],
        [1 / v for v in wide],
        [v + m * m for v, m in zip(wide, means, strict=True)],
    )
    other = min(half_log(held, p) for p in predicted)
    far = distances(diagnosis.evidence.layers["0"]).log_std
    assert far == pytest.approx(0.5 * math.log(2), rel=0.2)
    assert diagnosis.quantities["0"]["misread"] == pytest.approx(far / other, rel=1e-4)


def test_exchanged_by_brute_force():
    diagnosis, x, layer = layer_of(halved)
    means, variances = moments(x)
    found_mean, found_var = (t.double().tolist() for t in (layer.running_mean, layer.running_var))

    def off(pairs):
        return max(
            rms(f - e for f, e in zip(found, expected, strict=True)) / rms(expected)
            for found, expected in pairs
        )

    as_it_is = off([(found_mean, means), (found_var, variances)])
    swapped = off([(found_var, means), (found_mean, variances)])
    assert diagnosis.quantities["0"]["exchanged"] == pytest.approx(as_it_is / swapped, rel=1e-4)


def test_undivided_by_brute_force():
    diagnosis, x, layer = layer_of(halved)
    means, variances = moments(x)
    held = layer.running_var.double().tolist()
    top = sum(f * m / (v + 1e-5) for f, m, v in zip(
        layer.running_mean.double().tolist(), means, variances, strict=True))  # fmt: skip
    a = top / sum(m * m / (v + 1e-5) for m, v in zip(means, variances, strict=True))
    assert a == pytest.approx(0.8, abs=1e-6)
    excess = sorted(h - v for h, v in zip(held, variances, strict=True))[3]
    assert excess < 0  # so the third kind is not possible
    errors = [half_log(held, [a * v + rest for v in variances]) for rest in (0.0, 1 - a)]
    far = distances(diagnosis.evidence.layers["0"]).log_std
    expected = far / min(errors)
    assert diagnosis.quantities["0"]["undivided"] == pytest.approx(expected, rel=1e-4)


def test_shift_over_scale_by_brute_force():
    diagnosis, _, layer = layer_of()
    scale, shift = sorted(layer.weight.abs().tolist()), sorted(layer.bias.tolist())
    assert diagnosis.quantities["0"]["shift_over_scale"] == pytest.approx(shift[3] / scale[3])
    bare = bn.diagnose(nn.BatchNorm1d(8, affine=False), [torch.randn(8, 8)], progress=False)
    assert bare.quantities[""]["shift_over_scale"] is None


# The trial.


def exchanged_network(parts=("1", "4")):
    case = healthy.NETWORKS["mlp"](0)
    with torch.no_grad():
        for name in parts:
            layer = case.model.get_submodule(name)
            weight = layer.weight.clone()
            layer.weight.copy_(layer.bias)
            layer.bias.copy_(weight)
    return case


def test_a_trial_leaves_the_model_as_it_was():
    case = exchanged_network()
    before = {k: (v.clone(), v.data_ptr(), v._version) for k, v in case.model.state_dict().items()}
    parameters = [id(p) for p in case.model.parameters()]
    diagnosis = diagnosed(case)
    assert diagnosis.evidence.trials[trials.EXCHANGED].is_better
    for key, value in case.model.state_dict().items():
        copy, pointer, _ = before[key]
        assert torch.equal(value, copy)
        assert value.data_ptr() == pointer
    assert [id(p) for p in case.model.parameters()] == parameters
    assert all(p._version == before[k][2] for k, p in case.model.named_parameters())


def test_a_trial_that_raises_leaves_the_model_as_it_was():
    case = exchanged_network()
    weight = case.model[1].weight
    calls = []

    def loss(output, batch):
        calls.append(None)
        if case.model[1].weight is not weight:
            raise RuntimeError("in the trial")
        return healthy.cross_entropy(output, batch)

    with pytest.raises(RuntimeError, match="in the trial"):
        bn.diagnose(case.model, case.batches, loss, progress=False)
    assert case.model[1].weight is weight


def test_one_layer_of_two_is_found_alone():
    """Both look exchanged, one is; with both the loss is as small, which is no reason."""
    case = exchanged_network(parts=("1",))
    with torch.no_grad():  # as good as before: the next layer takes the scale out again
        case.model[4].bias.add_(2.0)
        case.model[6].bias.sub_(2.0 * case.model[6].weight.sum(1))
    trial = diagnosed(case).evidence.trials[trials.EXCHANGED]
    assert trial.is_better
    assert trial.layers == ("1",)


def test_without_a_loss_nothing_is_tried():
    case = exchanged_network()
    diagnosis = bn.diagnose(case.model, case.batches, progress=False)
    assert not diagnosis.evidence.trials
    assert found(exchanged_affine, diagnosis.evidence) == []


def test_parametrized_weights_are_not_tried():
    case = exchanged_network()
    for name in ("1", "4"):
        parametrize.register_parametrization(
            case.model.get_submodule(name), "weight", nn.Identity()
        )
    assert not diagnosed(case).evidence.trials


# The counter.


def test_a_counter_of_zero_beside_statistics(network):
    def change(momentum, updates):
        def of(layer):
            return dataclasses.replace(layer, momentum=momentum, num_batches_tracked=updates)

        return of

    every = list(network.layers)
    assert found(uncounted_statistics, with_layers(network, change(None, 0))) == every
    assert found(uncounted_statistics, with_layers(network, change(None, 1))) == []
    assert found(uncounted_statistics, with_layers(network, change(0.1, 0))) == []
    assert found(uncounted_statistics, with_layers(network, change(None, None))) == []

    def fresh(layer):
        zero, one = torch.zeros_like(layer.running_mean), torch.ones_like(layer.running_var)
        changed = change(None, 0)(layer)
        return dataclasses.replace(changed, running_mean=zero, running_var=one)

    assert found(uncounted_statistics, with_layers(network, fresh)) == []
