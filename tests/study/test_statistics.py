"""Intervals, exact tests and words against SciPy, enumeration and worked examples."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats

from batchnorm.study.statistics import (
    compare,
    decision_p,
    holm,
    sign_flip_p,
    t_interval,
    verdict_after_holm,
)

samples = st.lists(st.floats(-5, 5).map(lambda v: round(v, 3)), min_size=2, max_size=9)


@given(samples)
def test_t_interval_is_scipys(values):
    assume(np.std(values) > 1e-3)
    expected = stats.ttest_1samp(values, 0.0).confidence_interval(0.95)
    assert t_interval(values) == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_t_interval_without_spread_is_the_mean_and_of_one_seed_infinite():
    assert t_interval([0.25] * 6) == (0.25, 0.25)
    assert t_interval([0.25]) == (-math.inf, math.inf)


def flips_by_hand(values):
    """Share of all sign patterns whose mean is at least as far from 0 as what was seen."""
    observed = abs(sum(values))
    sums = [
        abs(sum(s * v for s, v in zip(signs, values, strict=True)))
        for signs in itertools.product((1, -1), repeat=len(values))
    ]
    return sum(s >= observed - 1e-9 for s in sums) / len(sums)


@given(st.lists(st.integers(-20, 20), min_size=2, max_size=8))
def test_sign_flip_p_counts_all_flips(values):
    assume(any(values) and sum(values) != 0)
    assert sign_flip_p([v / 16 for v in values]) == pytest.approx(flips_by_hand(values))


def test_sign_flip_p_is_exact_to_twelve_seeds():
    values = [1.0] * 11 + [-3.0]
    assert sign_flip_p(values) == pytest.approx(flips_by_hand(values), abs=1e-12)


@pytest.mark.parametrize(("n", "p"), [(5, 0.0625), (6, 0.03125), (8, 0.0078125)])
def test_smallest_sign_flip_p(n, p):
    assert sign_flip_p([1.0 + i for i in range(n)]) == pytest.approx(p)


@pytest.mark.parametrize("values", [[0.0] * 6, [1.0], [1.0, -1.0]])
def test_sign_flip_p_without_a_direction_is_1(values):
    assert sign_flip_p(values) == 1.0


def interval(values, alpha):
    half = stats.t.ppf(1 - alpha / 2, len(values) - 1) * stats.sem(values)
    return np.mean(values) - half, np.mean(values) + half


def decides(low, high, threshold):
    return low > threshold or high < -threshold or (-threshold < low and high < threshold)


@given(samples, st.floats(0.0, 2.0))
def test_interval_touches_the_threshold_at_decision_p(values, threshold):
    assume(np.std(values) > 1e-2)
    p = decision_p(values, threshold)
    assume(1e-6 < p < 0.99)
    assert not decides(*interval(values, p * 0.999), threshold)
    assert decides(*interval(values, min(p * 1.001, 0.9999)), threshold)


@given(samples)
def test_decision_at_threshold_zero_is_the_t_test(values):
    assume(np.std(values) > 1e-3)
    assert decision_p(values, 0.0) == pytest.approx(stats.ttest_1samp(values, 0.0).pvalue, abs=1e-9)


@given(samples, st.floats(0.01, 2.0))
def test_decision_is_blind_to_the_sign(values, threshold):
    assert decision_p(values, threshold) == decision_p([-v for v in values], threshold)


@pytest.mark.parametrize(
    ("values", "p"), [([1.0] * 6, 0.0), ([0.0] * 6, 0.0), ([0.5] * 6, 1.0), ([3.0], 1.0)]
)
def test_decision_without_spread(values, p):
    assert decision_p(values, 0.5) == p


def test_holm_worked_example():
    # sorted: 0.005·4, 0.01·3, 0.03·2, 0.04·1, each at least what came before
    adjusted = holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005})
    assert adjusted == pytest.approx({"d": 0.02, "a": 0.03, "c": 0.06, "b": 0.06})


def test_holm_is_capped_and_leaves_a_single_p_alone():
    assert holm({"a": 0.6, "b": 0.9}) == {"a": 1.0, "b": 1.0}
    assert holm({"a": 0.04}) == {"a": 0.04}
    assert holm({}) == {}


@given(st.lists(st.floats(0, 1), min_size=1, max_size=7))
def test_holm_rejects_what_the_step_down_procedure_rejects(p_values):
    named = {str(i): p for i, p in enumerate(p_values)}
    rejected = set()
    for rank, name in enumerate(sorted(named, key=named.get)):
        if (len(named) - rank) * named[name] > 0.05:
            break
        rejected.add(name)
    assert {name for name, p in holm(named).items() if p <= 0.05} == rejected


# ---------------------------------------------------------------------------- words

STEADY = (1.0, 1.1, 0.9, 1.05, 0.95, 1.0)


def effect(values, threshold=0.5):
    return compare("cell", dict(enumerate(values)), threshold)


@pytest.mark.parametrize(
    ("values", "word"),
    [
        (STEADY, "supported"),
        ([-v for v in STEADY], "contradicted"),
        ([v - 1 for v in STEADY], "no practical effect"),
        ([v - 0.5 for v in STEADY], "inconclusive"),
        ([3.0, -3.0] * 3, "inconclusive"),
        (STEADY[:5], "exploratory"),
        (STEADY[:1], "exploratory"),
        ([1.0] * 6, "supported"),
        ([0.0] * 6, "no practical effect"),
        ([0.5] * 6, "inconclusive"),
    ],
)
def test_word_by_where_the_interval_lies(values, word):
    assert effect(values).verdict == word


@given(st.lists(st.floats(-2, 2).map(lambda v: round(v, 2)), min_size=6, max_size=8))
def test_word_is_that_of_the_interval_by_definition(values):
    assume(np.std(values) > 1e-3)
    low, high = interval(values, 0.05)
    assume(min(abs(abs(low) - 0.5), abs(abs(high) - 0.5)) > 1e-6)
    expected = (
        "supported"
        if low > 0.5
        else "contradicted"
        if high < -0.5
        else "no practical effect"
        if low > -0.5 and high < 0.5
        else "inconclusive"
    )
    assert effect(values).verdict == expected


def test_effect_reports_its_numbers():
    e = effect([3.0, -1.0, 2.0, 4.0, 1.0, 3.0])
    assert e.mean == pytest.approx(2.0)
    assert e.effect_size == pytest.approx(2.0 / np.std([3, -1, 2, 4, 1, 3], ddof=1))
    assert e.wins == 5
    assert (e.low, e.high) == pytest.approx(interval([3, -1, 2, 4, 1, 3], 0.05))
    assert e.p_sign_flip == pytest.approx(flips_by_hand([3, -1, 2, 4, 1, 3]))
    assert e.p_holm is None


def test_single_seed_has_no_interval_and_no_effect_size():
    e = effect([1.0])
    assert (e.mean, e.low, e.high, e.effect_size, e.verdict) == (
        1.0, None, None, None, "exploratory",
    )  # fmt: skip


@pytest.mark.parametrize("bad", [None, math.nan, math.inf, -math.inf])
def test_seed_that_failed_makes_the_whole_comparison_not_measurable(bad):
    e = compare("cell", {0: 1.0, 1: bad, 2: 1.0, 3: 1.0, 4: 1.0, 5: 1.0}, 0.5, "seed 1 diverged")
    assert (e.verdict, e.reason) == ("not measurable", "seed 1 diverged")
    assert e.differences == (1.0, None, 1.0, 1.0, 1.0, 1.0)
    assert e.mean is e.low is e.high is e.p_sign_flip is e.effect_size is None
    assert e.wins == 5


def test_nothing_finished_is_said():
    e = compare("cell", {}, 0.5)
    assert (e.verdict, e.reason) == ("not measurable", "no run of it has finished")


def test_seeds_are_in_order():
    e = compare("cell", {2: 0.2, 0: 0.0, 1: 0.1}, 0.5)
    assert (e.seeds, e.differences) == ((0, 1, 2), (0.0, 0.1, 0.2))


@pytest.mark.parametrize(
    ("p", "word"), [(0.01, "supported"), (0.05, "supported"), (0.051, "inconclusive")]
)
def test_word_after_holm(p, word):
    e = effect(STEADY)
    verdict, reason = verdict_after_holm(e, p, 0.5)
    assert verdict == word
    assert ("alone it would be 'supported', but not after Holm's correction" in reason) == (
        word == "inconclusive"
    )


def test_paired_t_interval_covers_its_share_at_six_seeds():
    rng, runs, truth = np.random.default_rng(0), 4000, 0.3
    inside = 0
    for _ in range(runs):
        low, high = t_interval(truth + rng.standard_normal(6))
        inside += low <= truth <= high
    tolerance = 4 * math.sqrt(0.95 * 0.05 / runs)
    assert inside / runs == pytest.approx(0.95, abs=tolerance)


def test_verdicts_are_wrong_at_most_as_often_as_said_at_the_edge_of_the_threshold():
    """The truth lies exactly at the threshold: 'supported' must come up in 2.5 % of studies."""
    rng, runs, threshold = np.random.default_rng(1), 4000, 0.5
    hits = sum(
        decision_p(v, threshold) <= 0.05 and np.mean(v) > threshold
        for v in threshold + 0.2 * rng.standard_normal((runs, 6))
    )
    assert hits / runs == pytest.approx(0.025, abs=4 * math.sqrt(0.025 * 0.975 / runs))
