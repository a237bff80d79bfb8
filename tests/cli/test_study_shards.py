"""`batchnorm study --shard`: job arrays in one folder find what one process finds."""

import contextlib
import dataclasses
import os
import signal
import subprocess
import sys
import time

import pytest

from batchnorm.records import StudyResult, from_json

pytestmark = pytest.mark.slow

SMALL = ("--depth", "1", "--width", "8", "--steps", "20", "--seeds", "2", "--lr", "0.1")


def command(folder, out, *arguments):
    return subprocess.Popen(
        [sys.executable, "-m", "batchnorm", "study", "--out", out, *SMALL, *arguments],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finish(process):
    out, error = process.communicate(timeout=180)
    assert "Traceback" not in error, error
    return process.returncode, out, error


def timeless(folder):
    found = from_json(StudyResult, (folder / "results.json").read_text())
    runs = tuple(dataclasses.replace(run, seconds=0.0) for run in found.runs)
    return found.counts, found.drifts, found.dead_units, found.profiles, runs


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    code, _, error = finish(command(folder, "one"))
    assert code == 0, error
    return timeless(folder / "one")


def test_shards_at_the_same_time_finish_together(tmp_path, whole):
    shards = [command(tmp_path, "both", "--shard", f"{i}/2", "--jobs", "1") for i in (1, 2)]
    for process in shards:
        code, out, error = finish(process)
        assert code == 0, error
        assert "finished: " in out, error
    assert timeless(tmp_path / "both") == whole


def test_shards_one_after_the_other_say_what_is_missing(tmp_path, whole):
    said = []
    for index in (1, 2, 1):
        code, out, error = finish(command(tmp_path, "turns", "--shard", f"{index}/2"))
        assert code == 0, error
        said.append(error.splitlines()[-1])
        assert ("finished: " in out) == (len(said) == 3)
    assert "shard 1/2: its share is done. Trials of 2/2 are missing" in said[0]
    assert "shard 2/2: its share is done. Trials of 1/2 are missing" in said[1]
    assert timeless(tmp_path / "turns") == whole


def test_a_killed_shard_is_missed_and_goes_on(tmp_path, whole):
    first = command(tmp_path, "killed", "--shard", "1/2", "--jobs", "1")
    trials = tmp_path / "killed" / "trials"
    end = time.monotonic() + 60
    while time.monotonic() < end and len(list(trials.glob("*.json"))) < 2:
        time.sleep(0.01)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(first.pid, signal.SIGKILL)
    first.communicate()
    code, _, error = finish(command(tmp_path, "killed", "--shard", "2/2"))
    assert code == 0
    assert "Trials of 1/2 are missing" in error
    assert not (tmp_path / "killed" / "results.json").exists()
    code, out, error = finish(command(tmp_path, "killed"))
    assert "finished: " in out, error
    assert timeless(tmp_path / "killed") == whole


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--shard", "3/2"), 2, "shard 3/2: expected i/n with i from 1 to n"),
        (("--shard", "half"), 2, "shard 'half': expected i/n, for example 1/8"),
        (("--cluster", "tcp://127.0.0.1:9"), 3, "no scheduler answers there"),
    ],
)
def test_what_is_no_shard_and_no_cluster_is_said(tmp_path, arguments, code, message):
    found, _, error = finish(command(tmp_path, "none", *arguments))
    assert found == code
    assert message in " ".join(error.split())
