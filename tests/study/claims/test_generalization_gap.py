"""Claim 5 against interpolation by NumPy on the logarithm of the loss."""

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchnorm.study.claims.generalization_gap import (
    gap_at,
    gap_difference,
    lowest_loss,
    matched_loss,
    slope_over_sizes,
)
from batchnorm.study.design import TrialConfig
from batchnorm.study.training import Evaluation

from ..cases import PROBLEM, small_design, study, verdicts, written


def run_of(*points):
    """A run with evaluations (train loss, train accuracy, test accuracy)."""
    run = written(TrialConfig(PROBLEM, "probe", "relu", "none", 0, 0.1))
    curve = tuple(
        Evaluation(2**i, loss, train, 0.5, 1.0, test)
        for i, (loss, train, test) in enumerate(points)
    )
    return dataclasses.replace(run, curve=curve)


def run_with_gaps(losses, gaps):
    return run_of(*((loss, 0.9, 0.9 - gap) for loss, gap in zip(losses, gaps, strict=True)))


def gap_by_hand(losses, gaps, target):
    """Walk along the curve; between two evaluations the gap is linear in ln(loss)."""
    first = next(i for i, loss in enumerate(losses) if loss <= target)
    if first == 0:
        return gaps[0]
    ends = np.log([losses[first], losses[first - 1]])
    return float(np.interp(math.log(target), ends, [gaps[first], gaps[first - 1]]))


curves = st.lists(
    st.tuples(st.floats(1e-4, 3.0), st.floats(-0.2, 0.8)), min_size=1, max_size=7
).map(lambda points: tuple(map(list, zip(*points, strict=True))))


@given(curves, st.floats(0.0, 1.0))
def test_gap_is_taken_where_the_loss_first_falls_to_the_target(curve, share):
    losses, gaps = curve
    target = math.exp(math.log(min(losses)) * (1 - share) + math.log(max(losses)) * share) * (
        1 + 1e-12
    )

    found = gap_at(run_with_gaps(losses, gaps), target)

    assert found == pytest.approx(gap_by_hand(losses, gaps, target), abs=1e-6)


@given(curves, curves)
def test_difference_is_without_minus_with_at_the_lowest_loss_both_reach(a, b):
    target = max(min(a[0]), min(b[0]))

    found = gap_difference(run_with_gaps(*a), run_with_gaps(*b))

    expected = gap_by_hand(*a, target) - gap_by_hand(*b, target)
    assert found == pytest.approx(expected, abs=1e-6)


def test_gap_by_hand_halfway_between_two_evaluations():
    run = run_of((1.0, 0.50, 0.48), (0.1, 0.80, 0.70), (0.01, 1.0, 0.7))
    # sqrt(0.1) lies halfway between 1 and 0.1 on the logarithmic scale
    assert gap_at(run, math.sqrt(0.1)) == pytest.approx((0.02 + 0.10) / 2)
    assert gap_at(run, 1.5) == pytest.approx(0.02)
    assert gap_at(run, 0.001) is None


def test_matched_loss_is_the_largest_of_the_lowest():
    runs = [run_of((0.5, 1, 1), (0.1, 1, 1), (0.3, 1, 1)), run_of((0.9, 1, 1), (0.2, 1, 1))]
    assert [lowest_loss(run) for run in runs] == [0.1, 0.2]
    assert matched_loss(runs) == 0.2
    assert matched_loss([]) is None
    assert matched_loss([runs[0], run_of((None, 1, 1))]) is None


def test_loss_of_exactly_zero_is_reached():
    run = run_of((1.0, 0.6, 0.5), (0.0, 1.0, 0.7))
    assert gap_at(run, 0.0) == pytest.approx(0.3)


@pytest.mark.parametrize("not_finite", [math.inf, None], ids=["inf", "null on file"])
def test_evaluation_that_was_not_finite_is_passed_over(not_finite):
    """The ledger writes infinity as null: fresh and reloaded runs must be judged alike."""
    run = run_of((not_finite, 0.1, 0.1), (0.5, 0.8, 0.7), (0.1, 0.9, 0.6))
    assert lowest_loss(run) == 0.1
    assert gap_at(run, 0.6) == pytest.approx(0.1)
    assert gap_at(run, 0.5) == pytest.approx(0.1)
    assert gap_at(run, math.sqrt(0.05)) == pytest.approx(0.2)


def test_run_that_is_nowhere_finite_has_no_lowest_loss():
    assert lowest_loss(run_of((math.inf, 0.1, 0.1))) is None


@given(st.dictionaries(st.sampled_from([2, 4, 8, 16, 64]), st.floats(-0.2, 0.5), min_size=3))
def test_slope_is_the_least_squares_rise_from_the_smallest_to_the_largest_size(gap_by_size):
    runs = {size: run_with_gaps([1.0, 0.1], [0.0, gap]) for size, gap in gap_by_size.items()}
    x = np.log2(sorted(gap_by_size))
    slope = np.polyfit(x, [gap_by_size[s] for s in sorted(gap_by_size)], 1)[0]

    assert slope_over_sizes(runs) == pytest.approx(slope * (x[-1] - x[0]), abs=1e-9)


def test_slope_is_positive_where_fewer_samples_per_statistic_narrow_the_gap():
    gaps = {4: 0.01, 8: 0.02, 16: 0.03}
    runs = {size: run_with_gaps([1.0], [gap]) for size, gap in gaps.items()}
    assert slope_over_sizes(runs) == pytest.approx(0.02)


def test_slope_compares_at_the_loss_that_all_sizes_reach():
    runs = {
        4: run_with_gaps([1.0, 0.1], [0.0, 0.1]),
        8: run_with_gaps([1.0, 0.1], [0.0, 0.2]),
        16: run_with_gaps([1.0, math.sqrt(0.1)], [0.0, 0.3]),
    }
    # at sqrt(0.1): 0.05, 0.1, 0.3 over one doubling each
    assert slope_over_sizes(runs) == pytest.approx(0.25)


def test_slope_needs_three_sizes():
    assert slope_over_sizes({4: run_of((1.0, 1, 1)), 8: run_of((1.0, 1, 1))}) is None


def gap_of(config, *, without=0.08, with_bn=0.04, by_size=0.005):
    """Gaps by arm; that of the BN arm rises by so much per doubling of the samples."""
    size = config.virtual_batch_size or config.problem.batch_size
    doublings = math.log2(size / config.problem.batch_size)
    return without if config.arm == "none" else with_bn + by_size * doublings


def test_headline_is_gap_without_minus_gap_with_and_slope_stands_beside_it():
    test = verdicts(study(lambda c: written(c, gap=gap_of(c))))["5"]
    assert test.headline.differences == pytest.approx((0.04,) * 6)
    slope = test.cells[-1]
    assert slope.label == "relu, slope over virtual batch sizes 4 to 32 (batch norm alone)"
    assert slope.differences == pytest.approx((0.015,) * 6)
    assert (test.headline.verdict, slope.verdict) == ("supported", "supported")


@pytest.mark.parametrize("by_size", [0.0, -0.005])
def test_smaller_gap_alone_does_not_support_the_claim(by_size):
    test = verdicts(study(lambda c: written(c, gap=gap_of(c, by_size=by_size))))["5"]
    assert test.headline.mean > test.threshold
    assert test.headline.verdict == "inconclusive"
    assert "is not shown to shrink with the samples per statistic" in test.headline.reason


def test_slope_must_be_seen_with_every_activation():
    def make(config):
        flat = config.activation == "sigmoid"
        return written(config, gap=gap_of(config, by_size=0.0 if flat else 0.005))

    evidence = study(make, small_design(activations=("relu", "sigmoid")))
    test = verdicts(evidence)["5"]
    slopes = [cell.verdict for cell in test.cells if "slope" in cell.label]
    assert sorted(slopes) == ["no practical effect", "supported"]
    assert test.headline.verdict == "inconclusive"


def test_larger_gap_contradicts_whatever_the_slope():
    test = verdicts(study(lambda c: written(c, gap=gap_of(c, without=0.01))))["5"]
    assert test.headline.verdict == "contradicted"


def test_two_virtual_sizes_are_too_few_and_said_to_be():
    evidence = study(lambda c: written(c, gap=gap_of(c)), small_design(virtual_batch_sizes=(4,)))
    slope = verdicts(evidence)["5"].cells[-1]
    assert slope.verdict == "not measurable"
    assert slope.reason == "a batch of 32 leaves fewer than three sizes to compare"


def test_underfitting_is_no_small_gap():
    """An arm that has not learned has train = test accuracy, and must not win by it."""

    def make(config):
        if config.arm == "batch norm":
            return written(config, accuracy=0.1, gap=0.0)
        return written(config, gap=0.2)

    headline = verdicts(study(make))["5"].headline
    assert headline.verdict == "not measurable"
    assert "with it 6 of 6 runs diverged or did not learn" in headline.reason
