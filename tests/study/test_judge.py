"""From trials to verdicts: every test can come out for, against, neither, and not at all."""

import dataclasses
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from batchnorm.study.design import BATCH_NORM, NONE
from batchnorm.study.evidence import Evidence
from batchnorm.study.judge import judge
from batchnorm.study.training import DIVERGED, FAILED

from .cases import real_study, small_design, study, swap_arms, verdicts, written

FAVORABLE = {
    "1a": {NONE: {"drift": 4.0}, BATCH_NORM: {"drift": 1.0}},
    "1b": {NONE: {"shift": 4.0}, BATCH_NORM: {"shift": 1.0}},
    "2": {NONE: {"growth": -5.0}, BATCH_NORM: {"growth": 1.0}},
    "3a": {NONE: {"rate": 0.1}, BATCH_NORM: {"rate": 1.0}},
    "3b": {NONE: {"reaches": 16}, BATCH_NORM: {"reaches": 2}},
    "4": {NONE: {"dead": 20}, BATCH_NORM: {"dead": 5}},
    "5": {NONE: {"gap": 0.3}, BATCH_NORM: {"gap": 0.2}},
}
"""What each arm must show for the claim to hold."""

IDS = tuple(FAVORABLE)

MEANS = {
    "1a": math.log(4),
    "1b": math.log(4),
    "2": 4.0,
    "3a": math.log(10),
    "3b": math.log(8),
    "4": 0.15,
    "5": 0.1,
}

every_test = pytest.mark.parametrize("test_id", IDS)


def trial(config, facts):
    """A trial; the gap of a ghost run shrinks with its virtual batches, as claim 5 asks."""
    facts = dict(facts)
    if config.virtual_batch_size:
        facts["gap"] = facts.get("gap", 0.02) * config.virtual_batch_size / 32
    return written(config, **facts)


def other(arm):
    return BATCH_NORM if arm == NONE else NONE


@every_test
def test_supported_where_the_claim_holds(test_id):
    found = verdicts(study(lambda c: trial(c, FAVORABLE[test_id][c.arm])))
    assert found[test_id].headline.verdict == "supported"
    assert found[test_id].headline.mean == pytest.approx(MEANS[test_id])
    assert found[test_id].headline.wins == 6


@every_test
def test_contradicted_where_the_arms_are_exchanged(test_id):
    found = verdicts(study(lambda c: trial(c, FAVORABLE[test_id][other(c.arm)])))
    assert found[test_id].headline.verdict == "contradicted"
    assert found[test_id].headline.mean == pytest.approx(-MEANS[test_id])
    assert found[test_id].headline.wins == 0


@every_test
@pytest.mark.parametrize("arm", [NONE, BATCH_NORM])
def test_no_practical_effect_where_the_arms_are_alike(test_id, arm):
    found = verdicts(study(lambda c: trial(c, FAVORABLE[test_id][arm])))
    assert {test.headline.verdict for test in found.values()} == {"no practical effect"}
    assert found[test_id].headline.differences == (0.0,) * 6


@every_test
def test_one_claim_moves_no_other(test_id):
    found = verdicts(study(lambda c: trial(c, FAVORABLE[test_id][c.arm])))
    others = {t.headline.verdict for i, t in found.items() if i != test_id}
    assert others == {"no practical effect"}


@every_test
def test_inconclusive_where_seeds_disagree(test_id):
    def make(config):
        arm = config.arm if config.seed % 2 else other(config.arm)
        return trial(config, FAVORABLE[test_id][arm])

    headline = verdicts(study(make))[test_id].headline
    assert headline.verdict == "inconclusive"
    assert headline.wins == 3


@every_test
def test_exploratory_below_six_seeds(test_id):
    evidence = study(lambda c: trial(c, FAVORABLE[test_id][c.arm]), small_design(seeds=5))
    headline = verdicts(evidence)[test_id].headline
    assert (headline.verdict, headline.reason) == (
        "exploratory",
        "5 seeds are fewer than 6: no verdict",
    )
    assert headline.mean == pytest.approx(MEANS[test_id])


@every_test
def test_depends_on_the_activation_where_cells_contradict(test_id):
    def make(config):
        arm = config.arm if config.activation == "relu" else other(config.arm)
        return trial(config, FAVORABLE[test_id][arm])

    test = verdicts(study(make, small_design(activations=("relu", "sigmoid"))))[test_id]

    assert test.headline.verdict == "depends"
    assert test.headline.reason.startswith("it depends on the activation: supported for relu")
    supported, contradicted = test.headline.reason.split("; contradicted for ")
    assert "sigmoid" not in supported and "relu" not in contradicted


@pytest.mark.parametrize("test_id", ["1a", "1b", "4", "5"])
def test_depends_on_the_condition_where_the_own_rate_turns_it_round(test_id):
    """Without BN 0.1 is best, with it 1.0; at 1.0 it keeps the claim, at 0.1 it breaks it."""

    def make(config):
        best = 0.1 if config.arm == NONE else 1.0
        accuracy = {NONE: {0.1: 0.9, 1.0: 0.3}, BATCH_NORM: {0.1: 0.8, 1.0: 0.9}}
        if config.arm == NONE or config.lr == best:
            facts = FAVORABLE[test_id][config.arm]
        else:
            facts = {key: 2 * value for key, value in FAVORABLE[test_id][NONE].items()}
        return trial(config, {**facts, "accuracy": accuracy[config.arm][config.lr]})

    test = verdicts(study(make))[test_id]

    assert test.headline.verdict == "depends"
    reason = test.headline.reason
    assert reason.startswith("it depends on the condition: supported for relu, ")
    assert "each arm at its own learning rate; contradicted for relu" in reason
    assert reason.endswith("both arms at the same learning rate")


def test_activation_and_condition_are_both_named_where_either_could_explain():
    def make(config):
        facts = FAVORABLE["2"][config.arm if config.activation == "relu" else other(config.arm)]
        run = trial(config, facts)
        if not run.profiles:
            return run
        start, late = run.profiles
        flat = dataclasses.replace(start, error_rms=(1.0,) * 4)
        keep = (start, dataclasses.replace(flat, step=32))
        drop = (flat, late)
        return dataclasses.replace(run, profiles=keep if config.activation == "relu" else drop)

    test = verdicts(study(make, small_design(activations=("relu", "sigmoid"))))["2"]
    assert test.headline.reason == (
        "it depends on activation and condition: supported for relu, at initialization; "
        "contradicted for sigmoid, after 32 steps"
    )


# ---------------------------------------------------------------------------- not measurable


@pytest.mark.parametrize("test_id", ["1a", "1b", "5"])
@pytest.mark.parametrize(
    ("arm", "words"), [(NONE, "without batch normalization"), (BATCH_NORM, "with it")]
)
@pytest.mark.parametrize("how", [{"status": DIVERGED}, {"accuracy": 0.1}], ids=["diverged", "flat"])
def test_arm_that_did_not_train_is_named(test_id, arm, words, how):
    headline = verdicts(study(lambda c: written(c, **how if c.arm == arm else {})))[
        test_id
    ].headline
    assert headline.verdict == "not measurable"
    assert f"{words} 6 of 6 runs diverged or did not learn" in headline.reason
    quiet = "with it" if arm == NONE else "without batch normalization"
    assert f"{quiet} 6 of 6" not in headline.reason


def test_one_diverged_seed_is_not_dropped():
    evidence = study(
        lambda c: written(
            c, status=DIVERGED if (c.arm, c.seed, c.stage) == (NONE, 3, "probe") else "ok"
        )
    )
    headline = verdicts(evidence)["1a"].headline
    assert headline.verdict == "not measurable"
    assert "without batch normalization 1 of 6 runs diverged or did not learn" in headline.reason


def test_diverged_before_the_late_profile_is_named():
    def make(config):
        run = written(config)
        if config.arm == BATCH_NORM:
            run = dataclasses.replace(run, status=DIVERGED, profiles=run.profiles[:1])
        return run

    start, late = verdicts(study(make))["2"].cells
    assert start.verdict == "no practical effect"
    assert late.verdict == "not measurable"
    assert late.reason == "with it 6 of 6 runs diverged or did not learn"


def test_cell_that_cannot_be_measured_leaves_the_headline_to_the_others_and_is_counted():
    def make(config):
        facts = FAVORABLE["4"][config.arm]
        return written(config, **facts if config.activation == "relu" else {"dead": None})

    test = verdicts(study(make, small_design(activations=("relu", "sigmoid"))))["4"]
    assert test.headline.verdict == "supported"
    assert test.headline.mean == pytest.approx(0.15)
    assert test.headline.reason.endswith("(2 of 4 cells could not be measured)")


# ---------------------------------------------------------------------------- the headline


def test_headline_averages_cells_seed_by_seed():
    def make(config):
        times = 1 + config.seed if config.activation == "relu" else 9
        return written(config, drift=float(times) if config.arm == NONE else 1.0)

    test = verdicts(study(make, small_design(activations=("relu", "sigmoid"))))["1a"]
    expected = [(math.log(1 + seed) + math.log(9)) / 2 for seed in range(6)]
    assert test.headline.differences == pytest.approx(expected)


def near_threshold(p, threshold, seed):
    """Differences whose decision p value is `p`, above the threshold: mean = threshold + t·s."""
    from scipy import stats

    noise = [0.1, -0.1, 0.05, -0.05, 0.02, -0.02][seed]
    error = math.sqrt(2 * (0.1**2 + 0.05**2 + 0.02**2) / 5 / 6)
    return threshold + stats.t.isf(p / 2, 5) * error + noise


def test_holm_takes_back_what_was_significant_alone():
    """Four of seven tests at p = 0.03, the others at 0: Holm makes them 4·0.03 = 0.12."""

    def make(config):
        if config.arm == BATCH_NORM:
            return written(config, growth=1.0)
        ratio = near_threshold(0.03, math.log(1.25), config.seed)
        times = math.exp(ratio)
        return written(config, drift=times, shift=times, rate=1 / times, growth=1.0 + ratio)

    found = verdicts(study(make))

    for test_id in ("1a", "1b", "2", "3a"):
        headline = found[test_id].headline
        assert headline.p_holm == pytest.approx(0.12)
        assert headline.verdict == "inconclusive"
        assert headline.reason == (
            "alone it would be 'supported', but not after Holm's correction over the headline "
            "tests (p = 0.12)"
        )
        assert found[test_id].cells[0].verdict == "supported"


def test_holm_counts_only_tests_that_could_be_measured():
    """As above, but only 1a is near the threshold: the others are out, so p stays 0.03."""

    def make(config):
        times = 1.0
        if config.arm == NONE:
            times = math.exp(near_threshold(0.03, math.log(1.25), config.seed))
        return written(config, drift=times)

    headline = verdicts(study(make))["1a"].headline
    assert headline.p_holm == pytest.approx(0.03)
    assert headline.verdict == "supported"


def test_claims_come_in_the_order_of_the_article_with_their_tests():
    found = judge(study(written))
    assert [(c.number, [t.id for t in c.tests]) for c in found] == [
        (1, ["1a", "1b"]),
        (2, ["2"]),
        (3, ["3a", "3b"]),
        (4, ["4"]),
        (5, ["5"]),
    ]


# ---------------------------------------------------------------------------- partial ledgers

WORDS = {
    "supported", "contradicted", "no practical effect", "inconclusive", "not measurable",
    "exploratory", "depends",
}  # fmt: skip


def broken(config, how):
    """A trial that went wrong in some way."""
    run = trial(config, FAVORABLE["4"].get(config.arm, {}))
    changes = {
        0: {},
        1: {"status": DIVERGED, "dead": None, "profiles": run.profiles[:1], "drifts": ()},
        2: {"status": FAILED, "final": None, "curve": (), "drifts": (), "shifts": (),
            "profiles": (), "dead": None, "largest_rate": None},
        3: {"final": None, "largest_rate": None},
        4: {"curve": run.curve[:1]},
    }  # fmt: skip
    return dataclasses.replace(run, **changes[how])


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    share=st.sampled_from([0.02, 0.3, 0.7, 0.95]),
    trouble=st.sampled_from([0.0, 0.1, 0.6]),
    seeds=st.sampled_from([1, 2, 6]),
)
def test_any_part_of_any_study_can_be_judged(seed, share, trouble, seeds):
    g = torch.Generator().manual_seed(seed)

    def draw():
        return float(torch.rand((), generator=g))

    def make(config):
        return broken(config, 1 + int(4 * draw()) if draw() < trouble else 0)

    design = small_design(activations=("relu", "sigmoid"), seeds=seeds, virtual_batch_sizes=(4, 8))
    whole = study(make, design)
    part = [o for o in whole.by_config.values() if draw() < share]

    found = verdicts(Evidence(design, part, 10))

    assert {t.headline.verdict for t in found.values()} <= WORDS
    assert all(t.headline.reason for t in found.values())
    if seeds < 6:
        assert {t.headline.verdict for t in found.values()} <= {"exploratory", "not measurable"}


def test_nothing_run_is_not_measurable_everywhere():
    found = verdicts(Evidence(small_design(), [], 10))
    assert {t.headline.verdict for t in found.values()} == {"not measurable"}


# ---------------------------------------------------------------------------- real trials


REAL = {
    ("relu", 0.1): {"1a", "3a"},
    ("relu", 0.3): {"3a", "4"},
    ("sigmoid", 0.3): {"1a", "2", "3a"},
}
"""What BN wins in real short runs of a perceptron of three layers, by activation and rate."""

every_real_study = pytest.mark.parametrize(
    ("cell", "won"),
    [
        pytest.param(cell, won, id=f"{cell[0]}-{cell[1]}", marks=[pytest.mark.slow] * (i > 0))
        for i, (cell, won) in enumerate(REAL.items())
    ],
)


@every_real_study
def test_real_trials_support_and_with_the_arms_exchanged_contradict(cell, won):
    evidence = real_study(cell[0], (cell[1],))
    ours, exchanged = verdicts(evidence), verdicts(swap_arms(evidence))

    assert {i for i, t in ours.items() if t.headline.verdict == "supported"} == won
    assert {i for i, t in exchanged.items() if t.headline.verdict == "contradicted"} == won
    assert not any(t.headline.verdict == "contradicted" for t in ours.values())


@every_real_study
def test_real_trials_with_the_arms_exchanged_turn_every_difference_round(cell, won):
    evidence = real_study(cell[0], (cell[1],))
    ours, exchanged = verdicts(evidence), verdicts(swap_arms(evidence))
    for test_id in IDS:
        a, b = ours[test_id].headline, exchanged[test_id].headline
        turned = [None if d is None else -d for d in a.differences]
        assert b.differences == pytest.approx(turned, abs=1e-12), test_id


@pytest.mark.slow
def test_real_trials_that_diverged_are_named():
    """At 0.3 half of the perceptrons without BN break, and their units are dead."""
    found = verdicts(real_study("relu", (0.3,)))
    for test_id in ("1a", "1b"):
        assert found[test_id].cells[0].verdict == "not measurable"
        assert found[test_id].cells[0].reason == (
            "without batch normalization 3 of 6 runs diverged or did not learn"
        )
    assert found["3b"].headline.reason.endswith(
        "without batch normalization 3 of 6 runs did not train at the tuned rate"
    )


@pytest.mark.slow
def test_real_sigmoid_units_cannot_be_dead():
    test = verdicts(real_study("sigmoid", (0.3,)))["4"]
    assert {cell.reason for cell in test.cells} == {
        "sigmoid units are never exactly off, so that they cannot be dead"
    }
