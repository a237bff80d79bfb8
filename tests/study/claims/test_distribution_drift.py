"""Claim 1a against a loop over units with SciPy's Wasserstein distance."""

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn
from torch.testing import assert_close

from batchnorm.study.claims.distribution_drift import (
    PROBE_SAMPLES,
    DriftMeter,
    earth_mover,
    run_drift,
)
from batchnorm.study.outcome import DriftPoint

from ..cases import (
    dense,
    moved,
    networks,
    problem_for,
    real_study,
    study,
    unroll,
    values_of_units,
    verdicts,
    written,
)


def drift_by_hand(start, before, now, x):
    """Mean over layers and their units of W1(before, now) / (standard deviation at the start)."""
    layers, shapes = [], []
    for h0, a, b in zip(*(unroll(m, x)[0] for m in (start, before, now)), strict=True):
        units, forms = [], []
        for u0, ua, ub in zip(*map(values_of_units, (h0, a, b)), strict=True):
            units.append(stats.wasserstein_distance(ua, ub) / np.std(u0))
            forms.append(stats.wasserstein_distance(stats.zscore(ua), stats.zscore(ub)))
        layers.append(np.mean(units))
        shapes.append(np.mean(forms))
    return np.mean(layers), np.mean(shapes)


@networks
def test_drift_is_the_mean_wasserstein_distance_of_units_in_initial_deviations(make):
    start, x, _ = problem_for(make, samples=9)
    second, third = moved(start, 1), moved(start, 2)
    meter = DriftMeter(x)

    for step, model in ((0, start), (10, second), (20, third)):
        meter.look(step, model)

    assert [p.step for p in meter.points] == [10, 20]
    for point, before, now in zip(meter.points, (start, second), (second, third), strict=True):
        drift, shape = drift_by_hand(start, before, now, x)
        assert point.drift == pytest.approx(drift, rel=1e-9)
        assert point.shape == pytest.approx(shape, rel=1e-6)


@networks
def test_percentiles_are_those_of_the_middle_unit_of_the_last_activation(make):
    model, x, _ = problem_for(make, samples=11)
    meter = DriftMeter(x)
    meter.look(3, model)
    units = values_of_units(unroll(model, x)[0][-1])

    (point,) = meter.percentiles

    expected = np.percentile(units[len(units) // 2], [15, 50, 85])
    assert (point.p15, point.p50, point.p85) == pytest.approx(tuple(expected), abs=1e-6)
    assert point.step == 3


def test_earth_mover_pairs_sorted_values_not_samples():
    a, b = torch.tensor([[0.0], [1.0], [4.0]]), torch.tensor([[1.0], [2.0], [3.0]])
    assert_close(earth_mover(a, b), torch.tensor([1.0]))


def test_scale_is_that_of_the_start_though_the_network_froze_at_another():
    model, x, _ = problem_for(dense)
    meter, shrunk = DriftMeter(x), moved(model, by=0.0)
    meter.look(0, model)
    with torch.no_grad():
        shrunk[0].weight.mul_(1e-4)
        shrunk[0].bias.zero_()
    meter.look(1, shrunk)
    meter.look(2, shrunk)

    assert meter.points[1] == DriftPoint(2, 0.0, 0.0)
    assert meter.points[0].drift == pytest.approx(drift_by_hand(model, model, shrunk, x)[0])


def test_shape_is_blind_to_shift_and_positive_scale():
    model, x, _ = problem_for(dense)
    meter, other = DriftMeter(x), moved(model, by=0.0)
    meter.look(0, model[:2])
    with torch.no_grad():
        other[0].weight.mul_(3.0)
        other[0].bias.add_(7.0)
    meter.look(1, other[:2])

    assert meter.points[0].shape == pytest.approx(0.0, abs=1e-12)
    assert meter.points[0].drift > 2.0


def test_unit_that_was_constant_at_the_start_is_measured_on_the_smallest_scale():
    model = nn.Sequential(nn.Linear(1, 1), nn.ReLU()).double()
    x = torch.tensor([[1.0], [3.0]], dtype=torch.float64)
    meter = DriftMeter(x)
    for step, slope in enumerate((0.0, 1e-6)):
        nn.init.constant_(model[0].weight, slope)
        nn.init.zeros_(model[0].bias)
        meter.look(step, model)

    assert meter.points[0].drift == pytest.approx(2.0)  # mean move 2e-6, in units of 1e-6


def test_only_the_first_samples_are_probed():
    x = torch.randn(PROBE_SAMPLES + 5, 4)
    assert DriftMeter(x).x.shape == (PROBE_SAMPLES, 4)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_network_that_is_not_finite_is_not_measured_and_not_remembered(bad):
    model, x, _ = problem_for(dense)
    meter, broken, last = DriftMeter(x), moved(model, 1), moved(model, 2)
    nn.init.constant_(broken[0].bias, bad)

    for step, net in enumerate((model, broken, last)):
        meter.look(step, net)

    assert [p.step for p in meter.points] == [2]
    assert meter.points[0].drift == pytest.approx(drift_by_hand(model, model, last, x)[0])


def test_network_without_activations_has_no_drift():
    meter = DriftMeter(torch.randn(4, 2))
    meter.look(0, nn.Linear(2, 2))
    assert meter.points == [] == meter.percentiles


def test_run_drift_is_the_mean_over_probes():
    evidence = study(lambda c: written(c, drift=3.0))
    probe = evidence.probe("relu", "none", "best", 0)
    assert run_drift(probe) == pytest.approx(3.0)


def test_difference_is_the_logarithm_of_drift_without_over_drift_with():
    evidence = study(lambda c: written(c, drift=6.0 if c.arm == "none" else 2.0))
    test = verdicts(evidence)["1a"]
    assert test.headline.differences == pytest.approx((math.log(3.0),) * 6)
    assert len(test.cells) == 2


def test_real_trials_differ_by_the_logarithm_of_their_recorded_drifts():
    evidence = real_study("relu", (0.1,))
    cell = verdicts(evidence)["1a"].cells[0]
    for seed, difference in zip(cell.seeds, cell.differences, strict=True):
        means = [
            np.mean([p.drift for p in evidence.probe("relu", arm, "best", seed).drifts])
            for arm in ("none", "batch norm")
        ]
        assert difference == pytest.approx(np.log(means[0]) - np.log(means[1]))
