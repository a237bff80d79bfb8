"""A folder belongs to one study; a trial is on file whole or not at all."""

import json
import os

import pytest

from batchnorm.errors import UsageError
from batchnorm.study.design import GRID, make_design
from batchnorm.study.ledger import Ledger, explained
from batchnorm.study.outcome import DepthProfile, Outcome
from batchnorm.study.training import OK, Evaluation

DESIGN = make_design(seeds=1, lrs=(0.1,), steps=10, depth=1)
CONFIG = DESIGN.grid()[0]


def outcome(config=CONFIG):
    return Outcome(
        config,
        OK,
        steps=10,
        seconds=0.25,
        final=Evaluation(10, 0.5, 0.9, 0.8, 0.6, 0.7),
        curve=(Evaluation(1, None, None, 0.1, None, None),),
        profiles=(DepthProfile(0, (1.0, None), (0.5, 0.25)),),
    )


def test_an_outcome_comes_back_equal(tmp_path):
    ledger = Ledger(tmp_path)
    with ledger.open_for(DESIGN):
        assert ledger.load(CONFIG) is None
        ledger.save(outcome())
    assert ledger.load(CONFIG) == outcome()
    assert [p.name for p in (tmp_path / "trials").iterdir()] == [f"{CONFIG.key}.json"]


def test_a_broken_file_counts_as_missing(tmp_path):
    ledger = Ledger(tmp_path)
    with ledger.open_for(DESIGN):
        ledger.save(outcome())
        path = tmp_path / "trials" / f"{CONFIG.key}.json"
        path.write_text(path.read_text()[:40])
        assert ledger.load(CONFIG) is None


def test_the_same_study_opens_its_folder_again(tmp_path):
    for _ in range(2):
        with Ledger(tmp_path).open_for(DESIGN):
            pass


def test_another_study_is_refused_and_told_apart(tmp_path):
    with Ledger(tmp_path).open_for(DESIGN):
        pass
    other = make_design(seeds=1, lrs=(0.1,), steps=20, depth=1)
    with (
        pytest.raises(UsageError, match=r"holds another study \(steps: there 10, now 20"),
        Ledger(tmp_path).open_for(other),
    ):
        pass
    assert json.loads((tmp_path / "study.json").read_text())["problem"]["steps"] == 10


def test_a_folder_in_use_is_refused(tmp_path):
    with (
        Ledger(tmp_path).open_for(DESIGN),
        pytest.raises(UsageError, match="another process is running this study"),
        Ledger(tmp_path).open_for(DESIGN),
    ):
        pass


def test_a_file_in_place_of_the_folder_is_one_sentence(tmp_path):
    (tmp_path / "results").write_text("x")
    with (
        pytest.raises(UsageError, match=r"--out .*results'"),
        Ledger(tmp_path / "results").open_for(DESIGN),
    ):
        pass


def test_marks_of_killed_workers_are_found_once(tmp_path):
    ledger = Ledger(tmp_path)
    with ledger.open_for(DESIGN):
        with ledger.running(CONFIG):
            assert (tmp_path / "trials" / f"{CONFIG.key}.running").exists()
        assert not ledger.was_killed(CONFIG)
        with pytest.raises(KeyboardInterrupt), ledger.running(CONFIG):
            raise KeyboardInterrupt
        assert ledger.was_killed(CONFIG)
        assert not ledger.was_killed(CONFIG)


def test_an_error_of_the_file_system_becomes_a_sentence():
    with (
        pytest.raises(UsageError, match=r"x: No space left on device; what was already written"),
        explained("x"),
    ):
        raise OSError(28, os.strerror(28))


def test_keys_depend_on_every_setting():
    other_problem = make_design(seeds=1, lrs=(0.1,), steps=11, depth=1).grid()[0]
    configs = [*make_design(seeds=2, lrs=(0.1, 1.0), steps=10, depth=1).grid(), other_problem]
    assert len({config.key for config in configs}) == len(configs)
    assert CONFIG.key in {config.key for config in configs}
    assert CONFIG.stage == GRID
