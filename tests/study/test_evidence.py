"""Which learning rate a seed gets, and what is run at it."""

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchnorm.study.design import BATCH_NORM, DEFAULT_INIT, GRID, NONE
from batchnorm.study.evidence import Evidence, failed, upper_bound
from batchnorm.study.training import DIVERGED, FAILED

from .cases import small_design, study, written

LRS = (0.01, 0.1, 1.0)


def grid_of(accuracy, design, classes=10):
    """A finished grid; `accuracy(arm, lr, seed)` is a number, or a status, or None: not run."""
    outcomes = []
    for config in design.grid():
        value = accuracy(config.arm, config.lr, config.seed)
        if isinstance(value, str):
            final = None if value == FAILED else written(config).final
            outcomes.append(dataclasses.replace(written(config), status=value, final=final))
        elif value is not None:
            outcomes.append(written(config, accuracy=value))
    return Evidence(design, outcomes, classes)


tables = st.lists(
    st.sampled_from([0.0, 0.3, 0.6, 0.9, 0.95, DIVERGED, FAILED]), min_size=18, max_size=18
)


def smallest_of_best(scores):
    return next(lr for lr, s in zip(LRS, scores, strict=True) if s > max(scores) - 1e-9)


def value_of(entry):
    return 0.0 if isinstance(entry, str) else entry


@settings(max_examples=10, deadline=None)
@given(tables, tables)
def test_rates_are_chosen_by_the_other_seeds(without, with_bn):
    design = small_design(lrs=LRS)
    table = {NONE: without, BATCH_NORM: with_bn, DEFAULT_INIT: with_bn}
    evidence = grid_of(lambda arm, lr, seed: table[arm][3 * seed + LRS.index(lr)], design)

    for seed in range(6):
        score = {
            arm: [
                sum(value_of(table[arm][3 * s + i]) for s in range(6) if s != seed) / 5
                for i in range(3)
            ]
            for arm in table
        }
        for arm in (NONE, BATCH_NORM):
            assert evidence.tuned_lr("relu", arm, seed) == smallest_of_best(score[arm])
        worse = [min(pair) for pair in zip(score[NONE], score[BATCH_NORM], strict=True)]
        assert evidence.matched_lr("relu", seed) == smallest_of_best(worse)


def test_tie_is_one_though_its_sums_differ_in_their_last_digit():
    accuracies = {0.01: (0, 0.3, 0.6, 0.9, 0.3), 0.1: (0,) * 5, 1.0: (0, 0.3, 0.9, 0.9, 0)}
    evidence = grid_of(
        lambda arm, lr, seed: float(accuracies[lr][seed]), small_design(lrs=LRS, seeds=5)
    )
    assert sum(accuracies[0.01]) < sum(accuracies[1.0])  # by rounding alone: both are 2.1
    assert evidence.tuned_lr("relu", NONE, 0) == 0.01


def test_own_luck_does_not_choose_the_own_rate():
    """Seed 0 alone does well at 1.0: the others still choose it, seed 0 itself does not."""
    evidence = grid_of(
        lambda arm, lr, seed: (
            1.0 if (lr, seed) == (1.0, 0) else {0.01: 0.5, 0.1: 0.55}.get(lr, 0.5)
        ),
        small_design(lrs=LRS, seeds=3),
    )
    assert [evidence.tuned_lr("relu", NONE, seed) for seed in range(3)] == [0.1, 1.0, 1.0]


def test_ties_go_to_the_smaller_rate():
    evidence = grid_of(lambda arm, lr, seed: 0.9, small_design(lrs=LRS))
    assert evidence.tuned_lr("relu", NONE, 0) == 0.01
    assert evidence.matched_lr("relu", 0) == 0.01


@pytest.mark.parametrize("status", [DIVERGED, FAILED])
def test_run_that_diverged_or_failed_counts_as_zero(status):
    """At 0.1 half of the runs are excellent and half break: 0.5 on average, and not 1.0."""

    def accuracy(arm, lr, seed):
        if lr == 0.1:
            return status if seed % 2 else 1.0
        return 0.7

    evidence = grid_of(accuracy, small_design(lrs=LRS))
    assert [evidence.tuned_lr("relu", NONE, seed) for seed in range(6)] == [0.01] * 6


def test_matched_rate_is_where_the_worse_arm_does_best():
    table = {NONE: (0.8, 0.6, 0.1), BATCH_NORM: (0.5, 0.7, 0.9), DEFAULT_INIT: (0, 0, 1)}
    evidence = grid_of(lambda arm, lr, seed: table[arm][LRS.index(lr)], small_design(lrs=LRS))
    assert evidence.tuned_lr("relu", NONE, 0) == 0.01
    assert evidence.tuned_lr("relu", BATCH_NORM, 0) == 1.0
    assert evidence.matched_lr("relu", 0) == 0.1
    assert evidence.condition_lr("relu", BATCH_NORM, "best", 0) == 1.0
    assert evidence.condition_lr("relu", BATCH_NORM, "matched", 0) == 0.1


def test_single_seed_chooses_by_itself():
    evidence = grid_of(
        lambda arm, lr, seed: {0.01: 0.2, 0.1: 0.9, 1.0: 0.5}[lr], small_design(lrs=LRS, seeds=1)
    )
    assert evidence.tuned_lr("relu", NONE, 0) == 0.1


def test_nothing_run_chooses_nothing():
    evidence = Evidence(small_design(), [], 10)
    assert evidence.tuned_lr("relu", NONE, 0) is None
    assert evidence.matched_lr("relu", 0) is None
    assert evidence.probe("relu", NONE, "best", 0) is None
    assert evidence.second_stage() == []


def test_rate_that_one_arm_has_not_run_is_not_matched():
    evidence = grid_of(
        lambda arm, lr, seed: None if (arm, lr) == (NONE, 1.0) else 0.4 + lr / 2,
        small_design(lrs=LRS),
    )
    assert evidence.matched_lr("relu", 0) == 0.1


def test_chance_does_not_choose_among_rates_at_which_nothing_is_learned():
    """With 10 classes an accuracy up to 0.2 is no sign of learning."""
    evidence = grid_of(lambda arm, lr, seed: 0.1 + lr / 20, small_design(lrs=LRS))
    assert evidence.tuned_lr("relu", NONE, 0) == 0.01


@pytest.mark.parametrize(
    ("accuracy", "status", "learned"),
    [(0.95, "ok", True), (0.2, "ok", False), (0.21, "ok", True), (0.95, DIVERGED, False)],
)
def test_learned_is_better_than_chance_by_a_tenth(accuracy, status, learned):
    evidence = study(lambda c: written(c, status=status))
    run = evidence.find(GRID, "relu", NONE, 0, 0.1)
    run = dataclasses.replace(run, final=dataclasses.replace(run.final, train_accuracy=accuracy))
    assert evidence.learned(run) is learned


def test_failed_run_has_not_learned():
    evidence = grid_of(lambda arm, lr, seed: FAILED, small_design())
    run = evidence.find(GRID, "relu", NONE, 0, 0.1)
    assert not evidence.learned(run)
    assert len(failed(evidence.by_config.values())) == len(evidence.design.grid())


def test_second_stage_probes_both_conditions_and_isolates_the_noise():
    table = {NONE: (0.8, 0.6, 0.1), BATCH_NORM: (0.5, 0.7, 0.9), DEFAULT_INIT: (0.4, 0.3, 0.2)}
    design = small_design(lrs=LRS, seeds=1, virtual_batch_sizes=(4, 8))
    evidence = grid_of(lambda arm, lr, seed: table[arm][LRS.index(lr)], design)
    found = {(c.stage, c.arm, c.lr, c.virtual_batch_size) for c in evidence.second_stage()}
    assert found == {
        ("probe", NONE, 0.01, None),
        ("probe", NONE, 0.1, None),
        ("probe", BATCH_NORM, 1.0, None),
        ("probe", BATCH_NORM, 0.1, None),
        ("probe", DEFAULT_INIT, 0.01, None),
        ("stability", NONE, 0.01, None),
        ("stability", BATCH_NORM, 1.0, None),
        ("stability", DEFAULT_INIT, 0.01, None),
        ("ghost", BATCH_NORM, 1.0, 4),
        ("ghost", BATCH_NORM, 1.0, 8),
    }
    assert upper_bound(design) == len(design.grid()) + len(found)


def test_second_stage_runs_a_rate_that_both_conditions_share_once():
    design = small_design(lrs=LRS, seeds=1, virtual_batch_sizes=())
    stage = grid_of(lambda arm, lr, seed: 0.9, design).second_stage()
    assert len(stage) == len(set(stage)) == 6  # three probes, three searches


def test_whole_batch_as_virtual_batch_is_the_run_without_one():
    evidence = study(written)
    batch = evidence.design.problem.batch_size
    assert evidence.ghost("relu", batch, 0) is evidence.probe("relu", BATCH_NORM, "best", 0)
    assert evidence.ghost("relu", 4, 0).config.virtual_batch_size == 4
