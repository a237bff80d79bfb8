"""Trials run in processes that may raise, be killed, or be stopped; each runs once."""

import os
import signal
import threading
import time
from functools import partial

import pytest

from batchnorm.study.design import make_design
from batchnorm.study.engine import execute
from batchnorm.study.ledger import Ledger
from batchnorm.study.outcome import Outcome
from batchnorm.study.training import FAILED, OK
from batchnorm.study.trial import run_trial

DESIGN = make_design(seeds=2, lrs=(0.1, 1.0), steps=10, depth=1)
CONFIGS = DESIGN.grid()
VICTIM = CONFIGS[3]

pytestmark = pytest.mark.slow


def note(log, config):
    """Count a call, across processes."""
    with log.open("a") as file:
        file.write(f"{config.key}\n")


def quick(log, config):
    note(log, config)
    return Outcome(config, OK, steps=1)


def kills_its_worker(log, config):
    note(log, config)
    if config == VICTIM:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.02)
    return Outcome(config, OK)


def slow(log, config):
    note(log, config)
    time.sleep(0.3)
    return Outcome(config, OK)


def full_disk(config):
    raise OSError(28, os.strerror(28))


@pytest.fixture
def log(tmp_path):
    path = tmp_path / "log"
    path.touch()
    return path


@pytest.fixture
def ledger(tmp_path):
    opened = Ledger(tmp_path / "results")
    with opened.open_for(DESIGN):
        yield opened


def test_every_trial_runs_once_and_again_none(ledger, log):
    first = list(execute(CONFIGS, ledger, 2, partial(quick, log)))
    assert {o.config for o in first} == set(CONFIGS)
    again = list(execute(CONFIGS, ledger, 2, partial(quick, log)))
    assert {o.config for o in again} == set(CONFIGS)
    assert sorted(log.read_text().split()) == sorted(c.key for c in CONFIGS)


def test_only_what_is_missing_runs(ledger, log):
    for config in CONFIGS[:4]:
        ledger.save(Outcome(config, OK, steps=99))
    outcomes = {o.config: o.steps for o in execute(CONFIGS, ledger, 1, partial(quick, log))}
    assert [outcomes[c] for c in CONFIGS] == [99] * 4 + [1] * (len(CONFIGS) - 4)
    assert sorted(log.read_text().split()) == sorted(c.key for c in CONFIGS[4:])


def test_a_killed_worker_costs_its_own_trial_alone(ledger, log):
    outcomes = {o.config: o for o in execute(CONFIGS, ledger, 2, partial(kills_its_worker, log))}
    assert set(outcomes) == set(CONFIGS)
    bad = [config for config, outcome in outcomes.items() if outcome.status == FAILED]
    assert bad == [VICTIM]
    assert "killed twice" in outcomes[VICTIM].error
    assert ledger.load(VICTIM) == outcomes[VICTIM]
    assert log.read_text().split().count(VICTIM.key) == 2


@pytest.fixture
def interruptible():
    """Ctrl-C raises, also where the tests were started in the background, which ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_ctrl_c_keeps_what_is_finished_and_stops_the_rest(ledger, log):
    outcomes = execute(CONFIGS, ledger, 2, partial(slow, log))
    first = next(outcomes)
    threading.Timer(0.5, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        list(outcomes)
    time.sleep(0.7)
    on_file = [config for config in CONFIGS if ledger.load(config)]
    assert first.config in on_file
    assert len(on_file) < len(CONFIGS)
    started = len(log.read_text().split())
    time.sleep(0.7)
    assert len(log.read_text().split()) == started, "a worker went on"
    again = {o.config: o.steps for o in execute(CONFIGS, ledger, 2, partial(quick, log))}
    assert [c for c in CONFIGS if again[c] == 0] == on_file


def test_a_full_disk_stops_the_study(ledger):
    with pytest.raises(OSError, match="No space left"):
        list(execute(CONFIGS, ledger, 2, full_disk))


def test_a_trial_that_raises_is_an_outcome_with_its_traceback(tmp_path, monkeypatch):
    (tmp_path / "net.py").write_text("def make(): raise RuntimeError('planted')\n")
    monkeypatch.chdir(tmp_path)
    design = make_design(model=f"{tmp_path}/net.py:make", seeds=1, lrs=(0.1,), steps=10)
    outcome = run_trial(design.grid()[0])
    assert outcome.status == FAILED
    assert "planted" in outcome.error
    assert "Traceback (most recent call last)" in outcome.traceback
