"""Claim 2 against error signals by finite differences, and against theory in deep networks."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from torch import nn

from batchnorm.study.claims.backward_growth import depth_profile, total_growth
from batchnorm.study.data import Data, Part
from batchnorm.study.design import BATCH_NORM, DEFAULT_INIT, NONE, Problem, TrialConfig
from batchnorm.study.models import build
from batchnorm.study.outcome import DepthProfile
from batchnorm.study.statistics import compare

from ..cases import cross_entropy, dense, networks, problem_for, study, unroll, verdicts, written


def profile_by_hand(model, x, y, step=1e-6):
    """Root mean squares of every h_l and of dLoss/dh_l, the latter one number at a time."""
    inputs = unroll(model, x)[0]

    def loss(i, change):
        return float(cross_entropy(unroll(model, x, nudge=(i, change))[1], y))

    signals = []
    for i, h in enumerate(inputs):
        squares = []
        for at in range(h.numel()):
            change = torch.zeros_like(h)
            change.view(-1)[at] = step
            squares.append(((loss(i, change) - loss(i, -change)) / (2 * step)) ** 2)
        signals.append(np.sqrt(np.mean(squares)))
    return [np.sqrt(np.mean(h.numpy() ** 2)) for h in inputs], signals


@networks
def test_profile_is_the_size_of_inputs_and_error_signals_at_every_activation(make):
    model, x, y = problem_for(make)
    input_rms, error_rms = profile_by_hand(model, x, y)

    profile = depth_profile(5, model, x, y)

    assert profile.step == 5
    assert profile.input_rms == pytest.approx(input_rms, rel=1e-9)
    assert profile.error_rms == pytest.approx(error_rms, rel=1e-5)


@pytest.mark.parametrize("factor", [0.25, 1.0, 3.0])
@pytest.mark.parametrize("depth", [2, 3, 9])
def test_growth_of_a_geometric_signal_is_depth_times_its_logarithm(factor, depth):
    signal = tuple(factor ** (depth - i) for i in range(depth))
    growth = total_growth(DepthProfile(0, (1.0,) * depth, signal))
    assert growth == pytest.approx(depth * abs(math.log(factor)))


def test_growth_is_the_least_squares_slope():
    signal = (3.0, 0.2, 5.0, 0.07, 11.0)
    slope = np.polyfit(np.arange(5), np.log(signal), 1)[0]
    assert total_growth(DepthProfile(0, (1.0,) * 5, signal)) == pytest.approx(5 * abs(slope))


def test_vanishing_counts_like_exploding():
    up, down = (1.0, 2.0, 4.0), (4.0, 2.0, 1.0)
    growths = [total_growth(DepthProfile(0, (1.0,) * 3, s)) for s in (up, down)]
    assert growths == pytest.approx([3 * math.log(2)] * 2)


def test_signal_of_zero_counts_as_the_smallest_float():
    growth = total_growth(DepthProfile(0, (1.0, 1.0), (0.0, 1.0)))
    assert growth == pytest.approx(-2 * math.log(torch.finfo(torch.float32).tiny))


@pytest.mark.parametrize("signal", [(), (1.0,), (None, 1.0)])
def test_growth_needs_two_activations(signal):
    assert total_growth(DepthProfile(0, signal, signal)) is None


def test_network_without_activations_or_not_finite_has_no_profile():
    _, x, y = problem_for(dense)
    broken = dense().double()
    nn.init.constant_(broken[0].weight, math.nan)
    assert depth_profile(0, nn.Linear(4, 3).double(), x, y) is None
    assert depth_profile(0, broken, x, y) is None


def test_frozen_bottom_leaves_the_profile_of_what_trains():
    model, x, y = problem_for(dense)
    model[0].requires_grad_(False)
    input_rms, error_rms = profile_by_hand(model, x, y)

    profile = depth_profile(0, model, x, y)

    assert profile.input_rms == pytest.approx(input_rms[1:])
    assert profile.error_rms == pytest.approx(error_rms[1:], rel=1e-5)


def test_difference_is_growth_without_minus_growth_with_at_both_times():
    evidence = study(lambda c: written(c, growth=-3.0 if c.arm == "none" else 1.0))
    test = verdicts(evidence)["2"]
    assert test.headline.differences == pytest.approx((2.0,) * 6)
    assert [cell.label for cell in test.cells] == [
        "relu, at initialization",
        "relu, after 32 steps",
    ]


# ---------------------------------------------------------------------------- deep networks


def deep_profiles(activation, depth, seed, width=128, samples=128, arms=(NONE, BATCH_NORM)):
    torch.manual_seed(seed)
    x, y = torch.randn(samples, width), torch.randint(0, 10, (samples,))
    data = Data(*(Part(x, y),) * 3, 10)
    problem = Problem("raw", samples, 1, 1, depth, width)
    return {
        arm: depth_profile(
            0, build(TrialConfig(problem, "probe", activation, arm, seed, 1.0), data), x, y
        )
        for arm in arms
    }


def test_deep_relu_network_with_batch_norm_explodes_by_1_21_per_layer():
    """Yang et al. 2019: the squared signal grows by pi / (pi - 1) per layer, whatever the init."""
    depth = 24
    profiles = deep_profiles("relu", depth, seed=0)

    rho = {arm: math.exp(total_growth(p) / depth) for arm, p in profiles.items()}

    assert rho[BATCH_NORM] == pytest.approx(math.sqrt(math.pi / (math.pi - 1)), abs=0.02)
    assert rho[NONE] < 1.1
    assert profiles[BATCH_NORM].error_rms[0] > profiles[BATCH_NORM].error_rms[-1]


def test_claim_is_contradicted_by_deep_he_initialized_relu_networks():
    """Real profiles at initialization, in a study whose trials are otherwise written."""
    profiles = [deep_profiles("relu", 16, seed, width=32, samples=64) for seed in range(6)]

    def make(config):
        run = written(config)
        if config.stage != "probe":
            return run
        at_start = profiles[config.seed][config.arm]
        return dataclasses.replace(run, profiles=(at_start, run.profiles[1]))

    cell = verdicts(study(make))["2"].cells[0]

    assert cell.label == "relu, at initialization"
    assert (cell.verdict, cell.wins) == ("contradicted", 0)
    assert cell.mean < -1.5


def test_claim_is_supported_where_default_initialization_lets_sigmoids_vanish():
    depth, arms = 12, (DEFAULT_INIT, BATCH_NORM)
    differences = {}
    for seed in range(6):
        profiles = deep_profiles("sigmoid", depth, seed, width=32, samples=64, arms=arms)
        without, with_bn = (total_growth(profiles[arm]) for arm in arms)
        differences[seed] = without - with_bn

    effect = compare("sigmoid", differences, math.log(1.25))

    assert effect.verdict == "supported"
    assert effect.low > depth  # by more than e per layer
