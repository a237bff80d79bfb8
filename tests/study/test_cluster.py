"""Trials on a real Dask cluster on this machine, whose processes are killed."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

import batchnorm
from batchnorm.errors import ClusterError, UsageError
from batchnorm.study import cluster
from batchnorm.study.design import make_design
from batchnorm.study.engine import execute
from batchnorm.study.ledger import Ledger
from batchnorm.study.outcome import Outcome
from batchnorm.study.training import FAILED, OK
from batchnorm.study.trial import run_trial

pytest.importorskip("distributed")

DESIGN = make_design(seeds=2, lrs=(0.1, 1.0), steps=10, depth=1, width=4)
CONFIGS = DESIGN.grid()
VICTIM = CONFIGS[3]
PATHS = [str(Path(__file__).parents[1]), str(Path(batchnorm.__file__).parents[1])]
"""Where the workers find the trials of this file, and the package."""

pytestmark = [
    pytest.mark.slow,
    # Dask's own loops are closed where it is told to, and where its scheduler is killed.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


class Cluster:
    """A scheduler and its workers, each a process group of its own."""

    def __init__(self, folder):
        self.folder, self.started = folder, []
        self.file = folder / "scheduler.json"
        self.scheduler = self._start(
            "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard"
        )
        end = time.monotonic() + 60
        while not self.file.exists() and time.monotonic() < end:
            time.sleep(0.05)
        self.address = json.loads(self.file.read_text())["address"]

    def add_worker(self, *options, cwd=None):
        return self._start(
            "distributed.cli.dask_worker", "--nthreads", "1", "--no-dashboard", *options, cwd=cwd
        )

    def _start(self, module, *options, cwd=None):
        path = os.pathsep.join([*PATHS, os.environ.get("PYTHONPATH", "")])
        log = (self.folder / f"log{len(self.started)}").open("w")
        process = subprocess.Popen(
            [sys.executable, "-m", module, "--scheduler-file", str(self.file), *options],
            cwd=cwd or self.folder,
            env={**os.environ, "PYTHONPATH": path, "PYTHONWARNINGS": "ignore"},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        log.close()
        self.started.append(process)
        return process

    def stop(self):
        for process in reversed(self.started):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(20)


@pytest.fixture
def dask(tmp_path):
    started = Cluster(tmp_path)
    try:
        yield started
    finally:
        started.stop()


@pytest.fixture
def ledger(tmp_path):
    opened = Ledger(tmp_path / "results")
    with opened.open_for(DESIGN):
        yield opened


def quick(config):
    return Outcome(config, OK, steps=1)


def kills_its_worker_once(folder, config):
    mark = folder / "killed"
    with (folder / "started").open("a") as file:
        file.write(f"{config.key}\n")
    if config == VICTIM and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.05)
    return Outcome(config, OK)


def always_kills_its_worker(config):
    if config == VICTIM:
        os.kill(os.getpid(), signal.SIGKILL)
    return Outcome(config, OK)


def slow(config):
    time.sleep(0.3)
    return Outcome(config, OK)


def test_a_cluster_finds_what_this_machine_finds(dask, ledger, tmp_path):
    dask.add_worker("--nthreads", "2")
    with cluster.connected(dask.address, DESIGN.problem) as workers:
        there = {o.config: o for o in workers(CONFIGS[:6], ledger)}
    for config in CONFIGS[:6]:
        here = run_trial(config)
        assert here.status == OK
        assert (there[config].final, there[config].curve) == (here.final, here.curve)
        assert ledger.load(config) == there[config]


def test_a_killed_worker_costs_nothing_but_time(dask, ledger, tmp_path):
    dask.add_worker()
    dask.add_worker()
    trial = partial(kills_its_worker_once, tmp_path)
    with cluster.connected(dask.address, DESIGN.problem) as workers:
        outcomes = {o.config: o.status for o in workers(CONFIGS, ledger, trial)}
    assert outcomes == dict.fromkeys(CONFIGS, OK)
    started = (tmp_path / "started").read_text().split()
    assert started.count(VICTIM.key) == 2
    # One that the worker had finished, and not yet handed over, may run again.
    assert len(started) <= len(CONFIGS) + 2


def test_a_trial_that_kills_every_worker_is_given_up(dask, ledger):
    dask.add_worker()
    with cluster.connected(dask.address, DESIGN.problem) as workers:
        outcomes = {o.config: o for o in workers(CONFIGS, ledger, always_kills_its_worker)}
    assert set(outcomes) == set(CONFIGS)
    assert [c for c, o in outcomes.items() if o.status == FAILED] == [VICTIM]
    assert "killed again and again" in outcomes[VICTIM].error
    assert ledger.load(VICTIM) == outcomes[VICTIM]


def test_a_scheduler_that_goes_away_leaves_what_was_finished(dask, ledger):
    dask.add_worker()
    with (
        pytest.raises(ClusterError, match=r"the scheduler went away .* running again goes on"),
        cluster.connected(dask.address, DESIGN.problem) as workers,
    ):
        outcomes = workers(CONFIGS, ledger, slow)
        first = next(outcomes)
        os.killpg(dask.scheduler.pid, signal.SIGKILL)
        list(outcomes)
    on_file = [config for config in CONFIGS if ledger.load(config)]
    assert first.config in on_file
    assert len(on_file) < len(CONFIGS)
    again = {o.config: o.steps for o in execute(CONFIGS, ledger, 1, quick)}
    assert [c for c in CONFIGS if again[c] == 0] == on_file


def test_files_are_sent_to_workers_that_lack_them(dask, tmp_path, monkeypatch):
    home, elsewhere = tmp_path / "home", tmp_path / "elsewhere"
    home.mkdir()
    elsewhere.mkdir()
    (home / "net.py").write_text(
        "from torch import nn\n"
        "def make(norm): return nn.Sequential(nn.Linear(64, 8), norm(8), nn.ReLU(),"
        " nn.Linear(8, 10))\n"
    )
    monkeypatch.chdir(home)
    design = make_design(model="net.py:make", seeds=1, lrs=(0.1,), steps=10)
    dask.add_worker(cwd=elsewhere)
    own = Ledger(tmp_path / "own")
    with own.open_for(design), cluster.connected(dask.address, design.problem) as workers:
        outcomes = list(workers(design.grid(), own))
    assert [o.status for o in outcomes] == [OK, OK], outcomes[0].error
    (home / "lonely.py").write_text("from layers import make\n")
    (home / "layers.py").write_text("from net import make\n")
    other = make_design(model="lonely.py:make", seeds=1, lrs=(0.1,), steps=10)
    with (
        pytest.raises(UsageError, match=r"No module named 'layers' \(on worker .*PYTHONPATH"),
        cluster.connected(dask.address, other.problem),
    ):
        pass


def test_workers_of_other_versions_are_refused(dask, monkeypatch):
    dask.add_worker()
    # the function goes to the workers by its name, where it is what it always was
    monkeypatch.setattr(cluster, "__version__", "0.0.1")
    with (
        pytest.raises(ClusterError, match=r"worker tcp://.* expected .*batchnorm 0.0.1, .*as here"),
        cluster.connected(dask.address, DESIGN.problem),
    ):
        pass


def test_no_worker_and_no_scheduler_are_said(dask, monkeypatch):
    monkeypatch.setattr(cluster, "WORKER_SECONDS", 0.5)
    monkeypatch.setattr(cluster, "CONNECT_SECONDS", 0.5)
    with (
        pytest.raises(ClusterError, match="the scheduler has no workers"),
        cluster.connected(dask.address, DESIGN.problem),
    ):
        pass
    for address in ("tcp://127.0.0.1:9", "nonsense://", "127.0.0.1:9"):
        with (
            pytest.raises(ClusterError, match="no scheduler answers there"),
            cluster.connected(address, DESIGN.problem),
        ):
            pass
