"""Claim 3a: the bisection against a scan of the whole grid, and its sign."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchnorm.study.claims.stable_learning_rate import largest_stable_rate
from batchnorm.study.outcome import LargestRate

from ..cases import real_study, study, verdicts, written


def scan(is_stable, start):
    """The largest stable rate of all on the grid, three decades to either side, one by one."""
    grid = [float(f"{start * 10 ** (i / 8):.6g}") for i in range(-24, 25)]
    return max((lr for lr in grid if is_stable(lr)), default=None)


@given(start=st.floats(1e-3, 10.0), decades=st.floats(-2.99, 2.99))
def test_bisection_finds_what_a_scan_of_the_whole_grid_finds(start, decades):
    limit = start * 10**decades

    def is_stable(lr):
        return lr < limit

    found = largest_stable_rate(is_stable, start)

    assert found.lr == scan(is_stable, start)
    assert found.bound == ""


@given(decades=st.floats(-2.9, 2.9))
def test_the_next_grid_point_above_is_not_stable_and_no_rate_is_tried_twice(decades):
    tried = []

    def is_stable(lr):
        tried.append(lr)
        return lr < 0.1 * 10**decades

    found = largest_stable_rate(is_stable, 0.1)

    assert found.runs == len(tried) == len(set(tried))
    assert not is_stable(found.lr * 10 ** (1 / 8) * 1.00001)
    assert is_stable(found.lr)


def test_search_that_never_fails_says_at_least():
    # start, and six half-decade jumps
    assert largest_stable_rate(lambda lr: True, 0.01) == LargestRate(10.0, "at least", 7)


def test_search_that_never_succeeds_says_below():
    assert largest_stable_rate(lambda lr: False, 0.01) == LargestRate(None, "below", 7)


def test_bracket_of_half_a_decade_takes_two_halvings():
    # 1 stable; 10^(4/8) not; 10^(2/8) stable; 10^(3/8) stable
    assert largest_stable_rate(lambda lr: lr < 3.0, 1.0) == LargestRate(2.37137, "", 4)


def test_starting_above_goes_down_first():
    # 1 and 10^(-4/8) not stable, 0.1 is; then 10^(-6/8) and 10^(-7/8)
    assert largest_stable_rate(lambda lr: lr < 0.15, 1.0) == LargestRate(0.133352, "", 5)


def test_difference_is_the_logarithm_of_rate_with_over_rate_without():
    evidence = study(lambda c: written(c, rate=0.5 if c.arm == "none" else 4.0))
    assert verdicts(evidence)["3a"].headline.differences == pytest.approx((math.log(8.0),) * 6)


@pytest.mark.parametrize(
    ("arm", "words"),
    [("none", "without batch normalization"), ("batch norm", "with it")],
)
def test_arm_without_a_stable_rate_is_named(arm, words):
    evidence = study(lambda c: written(c, rate=None if c.arm == arm and c.seed == 2 else 1.0))
    headline = verdicts(evidence)["3a"].headline
    assert headline.verdict == "not measurable"
    why = f"{words} there is no stable rate at all in 1 of 6 seeds"
    assert headline.reason == f"relu, short runs: {why}"


def test_real_search_ends_at_a_rate_that_trains_next_to_one_that_does_not():
    from batchnorm.study.data import pool, split
    from batchnorm.study.models import build
    from batchnorm.study.training import evaluate, train

    evidence = real_study("relu", (0.1,))
    outcome = evidence.stability("relu", "none", 0)
    config, data = outcome.config, split(pool(None), 0, "standardize")

    def trains(lr):
        model = build(config, data)
        ran = train(model, data, config.problem, lr, config.problem.stability_steps, 0)
        return ran.status == "ok" and evaluate(model, data.train)[1] > 0.2

    lr = outcome.largest_rate.lr
    above = float(f"{config.lr * 10 ** (round(8 * math.log10(lr / config.lr) + 1) / 8):.6g}")
    assert trains(lr) and not trains(above)
