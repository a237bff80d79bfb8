"""Claim 3b against a scan of the curve by its definition."""

import dataclasses
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchnorm.study.claims.steps_to_accuracy import (
    censored_steps,
    steps_to,
    sustained_best,
    target_accuracy,
)
from batchnorm.study.design import TrialConfig
from batchnorm.study.training import Evaluation

from ..cases import PROBLEM, study, verdicts, written

curves = st.lists(st.integers(0, 10), min_size=2, max_size=8).map(
    lambda heights: [(2**i, h / 10) for i, h in enumerate(heights)]
)


def best_by_hand(curve):
    """The largest accuracy of all for which two neighbors exist that are not below it."""
    levels = {a for _, a in curve}
    return max(
        level
        for level in levels
        if any(curve[i][1] >= level <= curve[i + 1][1] for i in range(len(curve) - 1))
    )


def first_step_by_hand(curve, target):
    held = [
        curve[i][0]
        for i in range(len(curve) - 1)
        if curve[i][1] >= target and curve[i + 1][1] >= target
    ]
    return min(held, default=None)


def run_of(curve, steps=128, arm="none"):
    run = written(TrialConfig(PROBLEM, "grid", "relu", arm, 0, 0.1))
    points = tuple(Evaluation(step, None, None, a, None, None) for step, a in curve)
    return dataclasses.replace(run, curve=points, steps=steps)


@given(curves)
def test_sustained_best_is_held_over_two_evaluations(curve):
    assert sustained_best(curve) == best_by_hand(curve)


@given(curves, st.integers(0, 10))
def test_steps_to_is_the_first_evaluation_that_also_holds_at_the_next(curve, target):
    assert steps_to(curve, target / 10) == first_step_by_hand(curve, target / 10)


@pytest.mark.parametrize("curve", [[], [(1, 0.5)]])
def test_a_single_evaluation_sustains_nothing(curve):
    assert sustained_best(curve) is None
    assert steps_to(curve, 0.1) is None


@given(st.lists(curves, min_size=1, max_size=4), st.lists(curves, min_size=1, max_size=4))
def test_target_is_the_mean_best_of_the_weaker_arm(without, with_bn):
    bests = [[best_by_hand(curve) for curve in arm] for arm in (without, with_bn)]
    expected = min(sum(arm) / len(arm) for arm in bests)
    found = target_accuracy([run_of(c) for c in without], [run_of(c) for c in with_bn])
    assert found == pytest.approx(expected, abs=1e-6)


@given(curves, st.integers(0, 10))
def test_run_that_never_reaches_the_target_counts_at_its_budget(curve, target):
    by_hand = first_step_by_hand(curve, target / 10)
    expected = (by_hand, True) if by_hand is not None else (500, False)
    assert censored_steps(run_of(curve, steps=500), target / 10) == expected


def test_steps_by_hand():
    slow = [(1, 0.1), (2, 0.2), (4, 0.9), (8, 0.3), (16, 0.6), (32, 0.5)]
    fast = [(1, 0.1), (2, 0.7), (4, 0.7), (8, 0.7), (16, 0.8), (32, 0.9)]
    # the weaker arm sustains 0.5, at 16 and 32: its 0.9 was a single evaluation
    target = target_accuracy([run_of(slow)], [run_of(fast)])
    assert target == 0.5
    assert censored_steps(run_of(slow), target) == (16, True)
    assert censored_steps(run_of(fast), target) == (2, True)


def test_run_that_was_never_evaluated_twice_gives_no_target():
    assert target_accuracy([run_of([(1, 0.5)])], [run_of([(1, 0.5), (2, 0.5)])]) is None
    assert target_accuracy([], [run_of([(1, 0.5), (2, 0.5)])]) is None


def test_censored_runs_are_kept_at_the_budget_and_counted():
    """Half of the weaker arm's runs do not reach its mean; none of them may be left out."""

    def make(config):
        run = written(config)
        if config.stage != "grid":
            return run
        low, high = (0.5, 0.9) if config.arm == "none" else (0.95, 0.95)
        final = low if config.seed < 3 else high
        held = 20 if config.arm == "none" else 5
        points = [(1, 0.1), (held, final), (2 * held, final)]
        curve = tuple(Evaluation(step, None, None, a, None, None) for step, a in points)
        return dataclasses.replace(run, curve=curve, steps=80)

    test = verdicts(study(make))["3b"]
    # target 0.7, the mean of 0.5 and 0.9: three runs reach it at 20, three are censored at 80
    expected = [math.log(80 / 5)] * 3 + [math.log(20 / 5)] * 3
    assert test.headline.differences == pytest.approx(expected, abs=1e-9)
    assert "70.0 % was reached by 3 of 6 runs without batch normalization and by 6 with it" in (
        test.cells[0].reason
    )


def test_difference_uses_the_grid_run_at_each_arms_own_rate():
    """Unlike the others: the runs with measurements must not be what is timed."""

    def make(config):
        held = (16 if config.arm == "none" else 4) if config.stage == "grid" else 1
        return written(config, reaches=held)

    assert verdicts(study(make))["3b"].headline.differences == pytest.approx((math.log(4),) * 6)


@pytest.mark.parametrize(
    ("arm", "words"),
    [("none", "without batch normalization"), ("batch norm", "with it")],
)
def test_arm_that_did_not_train_is_named(arm, words):
    evidence = study(lambda c: written(c, accuracy=0.1 if c.arm == arm else 0.9))
    headline = verdicts(evidence)["3b"].headline
    assert headline.verdict == "not measurable"
    assert f"{words} 6 of 6 runs did not train at the tuned rate" in headline.reason
