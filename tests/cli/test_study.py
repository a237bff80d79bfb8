"""The whole command, on real data: resumed, killed, stopped, out of space, on a user's network."""

import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from batchnorm.records import StudyResult, from_json

pytestmark = pytest.mark.slow

SMALL = ("--depth", "1", "--width", "8", "--steps", "20", "--seeds", "2", "--lr", "0.1", "10")

NET = """
import torch
from sklearn.datasets import load_iris
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

def make():
    return nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(),
                         nn.Linear(16, 3))

def make_norm(norm):
    return nn.Sequential(nn.Linear(4, 16), norm(16), nn.ReLU(), nn.Linear(16, 3))

def conv(norm):
    return nn.Sequential(nn.Unflatten(1, (1, 2, 2)), nn.Conv2d(1, 8, 2), norm(8),
                         nn.ReLU(inplace=True), nn.Flatten(), nn.Dropout(0.2), nn.Linear(8, 3))

def parts():
    x, y = load_iris(return_X_y=True)
    x, y = torch.tensor(x), torch.tensor(y)
    index = torch.randperm(150, generator=torch.Generator().manual_seed(0))
    return TensorDataset(x[index[:110]], y[index[:110]]), TensorDataset(x[index[110:]],
                                                                        y[index[110:]])

def data():
    return parts()

def tensors():
    return tuple(part.tensors for part in parts())

def loaders():
    return tuple(DataLoader(part, batch_size=32) for part in parts())

def dies_once(norm):
    import os, pathlib
    class Dies(nn.Linear):
        def forward(self, x):
            mark = pathlib.Path("died")
            if self.training and torch.is_grad_enabled() and not mark.exists():
                mark.touch()
                os._exit(9)
            return super().forward(x)
    return nn.Sequential(Dies(4, 16), norm(16), nn.ReLU(), nn.Linear(16, 3))

def fails_in_training(norm):
    class Fails(nn.Module):
        def forward(self, x):
            if self.training and torch.is_grad_enabled():
                raise RuntimeError("planted fault")
            return x
    return nn.Sequential(nn.Linear(4, 16), norm(16), nn.ReLU(), nn.Linear(16, 3), Fails())
"""


def command(folder, *arguments, **options):
    """Start the real command in a process group of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "batchnorm", "study", "--out", "results", *arguments],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        **options,
    )


def finish(process, seconds=120):
    out, error = process.communicate(timeout=seconds)
    assert "Traceback" not in error, error
    return process.returncode, out, error


def result(folder):
    return from_json(StudyResult, (folder / "results" / "results.json").read_text())


def stamps(folder):
    return {p.name: p.stat().st_mtime_ns for p in (folder / "results" / "trials").glob("*.json")}


def wait_for_trials(folder, count, seconds=60):
    end = time.monotonic() + seconds
    trials = folder / "results" / "trials"
    while time.monotonic() < end:
        if trials.exists() and len(list(trials.glob("*.json"))) >= count:
            return
        time.sleep(0.01)
    raise AssertionError("no trial finished in time")


def test_a_study_ends_with_verdicts_and_is_not_run_twice(tmp_path):
    code, out, error = finish(command(tmp_path, *SMALL))
    assert code == 0, error
    study = result(tmp_path)
    assert [claim.number for claim in study.claims] == [1, 2, 3, 4, 5]
    ids = [test.id for claim in study.claims for test in claim.tests]
    assert ids == ["1a", "1b", "2", "3a", "3b", "4", "5"]
    assert {t.headline.verdict for c in study.claims for t in c.tests} <= {
        "exploratory",
        "not measurable",
    }
    assert study.counts.done == study.counts.planned
    assert study.counts.failed == 0
    assert not study.partial
    assert "exploratory" in out
    assert "results/report.html" in out.replace("\n", "")
    assert "trials:" in error

    before = stamps(tmp_path)
    code, _, error = finish(command(tmp_path, *SMALL))
    assert code == 0, error
    assert stamps(tmp_path) == before
    assert [c.tests for c in result(tmp_path).claims] == [c.tests for c in study.claims]

    # The page as drawn by `study`, and drawn again from what was saved, is the same to the byte.
    page = (tmp_path / "results" / "report.html").read_bytes()
    (tmp_path / "results" / "report.html").unlink()
    again = [sys.executable, "-m", "batchnorm", "report", "results"]
    subprocess.run(again, cwd=tmp_path, check=True, capture_output=True)
    assert (tmp_path / "results" / "report.html").read_bytes() == page


def test_kill_9_loses_at_most_the_trials_in_flight(tmp_path):
    process = command(tmp_path, *SMALL)
    wait_for_trials(tmp_path, 5)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    time.sleep(0.5)
    before = stamps(tmp_path)
    assert len(before) >= 5
    code, _, error = finish(command(tmp_path, *SMALL))
    assert code == 0, error
    after = stamps(tmp_path)
    assert before.items() <= after.items(), "a finished trial was run again"
    assert len(after) == result(tmp_path).counts.planned


def test_workers_of_a_killed_study_stop_after_their_trial(tmp_path):
    process = command(tmp_path, *SMALL, "--steps", "300")
    wait_for_trials(tmp_path, 3)
    os.kill(process.pid, signal.SIGKILL)
    process.wait(60)  # it is gone, and no worker's parent, only when its memory has been returned
    at_death = len(stamps(tmp_path))
    process.communicate()
    time.sleep(3)
    assert len(stamps(tmp_path)) <= at_death + 2, "two workers had one trial each in flight"
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def listen_to_ctrl_c():
    """Undo what a shell does to a job in the background, should the tests be one."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.parametrize(
    ("send", "number"),
    [(os.killpg, signal.SIGINT), (os.kill, signal.SIGTERM)],
    ids=["ctrl-c", "terminate"],
)
def test_a_stopped_study_leaves_a_report_that_says_it_is_partial(tmp_path, send, number):
    process = command(tmp_path, *SMALL, "--steps", "200", preexec_fn=listen_to_ctrl_c)
    wait_for_trials(tmp_path, 4)
    send(process.pid, number)
    code, out, error = finish(process)
    assert code == 130, error
    study = result(tmp_path)
    assert study.partial
    assert 4 <= study.counts.done < study.counts.planned
    assert len(stamps(tmp_path)) == study.counts.done
    assert "PARTIAL" in out
    assert "partial" in (tmp_path / "results" / "report.html").read_text().lower()


def test_a_full_disk_is_one_sentence_and_loses_nothing(tmp_path):
    first, _, error = finish(command(tmp_path, *SMALL, "--seeds", "1"))
    assert first == 0, error
    kept = stamps(tmp_path)
    for name in list(kept)[:3]:
        (tmp_path / "results" / "trials" / name).unlink()
    limit = 100  # bytes: no file of the study fits

    def no_space():
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    process = command(tmp_path, *SMALL, "--seeds", "1", preexec_fn=no_space)
    code, out, error = finish(process)
    assert code == 2
    assert out == ""
    assert "--out 'results': File too large; what was already written is kept" in error
    rest = stamps(tmp_path)
    assert rest.items() <= kept.items()
    assert len(rest) == len(kept) - 3


@pytest.mark.parametrize(
    ("model", "data"), [("make", "data"), ("make_norm", "tensors"), ("conv", "loaders")]
)
def test_a_users_own_network_and_data(tmp_path, model, data):
    (tmp_path / "net.py").write_text(NET)
    arguments = ("--lr", "0.01", "0.1", "1", "--seeds", "1", "--steps", "40", "--batch-size", "32")
    process = command(
        tmp_path, "--model", f"net.py:{model}", "--data", f"net.py:{data}", *arguments, "--json"
    )
    code, out, error = finish(process)
    assert code == 0, error
    study = from_json(StudyResult, out)
    assert study.counts.failed == 0, study.failures
    assert {run.activation for run in study.runs} == {"model"}
    assert {run.arm for run in study.runs} == {"none", "batch norm"}
    trained = [run.test_accuracy for run in study.runs if run.arm == "batch norm"]
    assert max(trained) > 0.8, "iris is easy"
    assert study.dead_units, "its ReLUs were looked at"
    assert all(unit.units > 0 for unit in study.dead_units)


def test_trials_that_raise_are_recorded_and_the_others_go_on(tmp_path):
    (tmp_path / "net.py").write_text(NET)
    arguments = ("--lr", "0.1", "--seeds", "1", "--steps", "10")
    process = command(
        tmp_path, "--model", "net.py:fails_in_training", "--data", "net.py:data", *arguments
    )
    code, _, error = finish(process)
    # check() trains nothing, so the fault shows in the trials: every one of them.
    assert code == 0, error
    study = result(tmp_path)
    assert study.counts.failed == study.counts.done == study.counts.planned
    assert "planted fault" in study.failures[0].traceback
    assert {t.headline.verdict for c in study.claims for t in c.tests} == {"not measurable"}
    assert "planted fault" in (tmp_path / "results" / "report.html").read_text()


def test_a_killed_worker_costs_nothing_when_its_trial_then_succeeds(tmp_path):
    (tmp_path / "net.py").write_text(NET)
    arguments = ("--lr", "0.1", "--seeds", "1", "--steps", "10", "--batch-size", "32")
    process = command(tmp_path, "--model", "net.py:dies_once", "--data", "net.py:data", *arguments)
    code, _, error = finish(process)
    assert code == 0, error
    assert (tmp_path / "died").exists()
    counts = result(tmp_path).counts
    assert (counts.done, counts.failed) == (counts.planned, 0)


def test_help_answers_without_torch():
    code = (
        "import sys; from batchnorm.cli import run; run(['study', '--help']);"
        "assert 'torch' not in sys.modules, 'torch was imported'"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "--lr" in done.stdout


def test_the_environment_is_shown():
    done = subprocess.run(
        [sys.executable, "-m", "batchnorm", "env", "--json"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert facts["python"] == ".".join(map(str, sys.version_info[:3]))
    assert facts["torch"].startswith("2.")
    assert Path(sys.executable).exists()
