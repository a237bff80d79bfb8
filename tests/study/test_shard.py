"""Shards of a study share a folder; each trial is the share of one."""

import importlib
import threading

import pytest

from batchnorm.errors import UsageError
from batchnorm.study.design import make_design
from batchnorm.study.ledger import Ledger
from batchnorm.study.outcome import Outcome
from batchnorm.study.shard import Shard
from batchnorm.study.training import OK

running = importlib.import_module("batchnorm.study.run")  # the package has a function of its name

DESIGN = make_design(seeds=2, lrs=(0.1, 1.0), steps=10, depth=1, width=4)
PLAN = DESIGN.grid()


@pytest.mark.parametrize("count", [1, 2, 3, 7, len(PLAN) + 2])
def test_every_trial_is_one_shards(count):
    shards = [Shard(i, count) for i in range(1, count + 1)]
    shares = [shard.share(PLAN) for shard in shards]
    assert sorted(c.key for share in shares for c in share) == sorted(c.key for c in PLAN)
    for shard, share in zip(shards, shares, strict=True):
        assert shards[0].owners(PLAN, share) == ({shard.index} if share else set())


@pytest.mark.parametrize("text", ["0/2", "3/2", "1", "1/0", "a/b", "-1/2", "1/2/3", ""])
def test_what_is_no_shard_is_refused(text):
    with pytest.raises(UsageError, match="expected i/n"):
        Shard.parse(text)


def test_shards_hold_the_folder_together_and_nobody_else_may(tmp_path):
    with Ledger(tmp_path).open_for(DESIGN, Shard(1, 2)):
        with pytest.raises(UsageError, match="another process is running shard 1/2"):
            open_and_close(tmp_path, Shard(1, 2))
        with pytest.raises(UsageError, match="another process is running this study"):
            open_and_close(tmp_path, None)
        with pytest.raises(UsageError, match="shard 1/2 is running, so 3/3 would share trials"):
            open_and_close(tmp_path, Shard(3, 3))
        assert Ledger(tmp_path).running_shards(2) == {1}
        with Ledger(tmp_path).open_for(DESIGN, Shard(2, 2)):
            assert Ledger(tmp_path).running_shards(2) == {1, 2}
            assert Ledger(tmp_path).running_shards(3) == set()
    assert Ledger(tmp_path).running_shards(2) == set()
    open_and_close(tmp_path, Shard(3, 3))
    with (
        Ledger(tmp_path).open_for(DESIGN),
        pytest.raises(UsageError, match="another process is running all of this study"),
    ):
        open_and_close(tmp_path, Shard(1, 2))


def open_and_close(folder, shard):
    with Ledger(folder).open_for(DESIGN, shard):
        pass


def test_opening_a_shard_leaves_the_marks_and_files_of_others(tmp_path):
    first = Ledger(tmp_path)
    with first.open_for(DESIGN, Shard(1, 2)), first.running(PLAN[0]):
        (tmp_path / "trials" / ".other.tmp").touch()
        with Ledger(tmp_path).open_for(DESIGN, Shard(2, 2)):
            assert (tmp_path / "trials" / ".other.tmp").exists()
            Ledger(tmp_path).forget_marks(Shard(2, 2).share(PLAN))
            assert first.was_killed(PLAN[0])


def fake(configs, ledger):
    """Run trials whose results say nothing, as the engine does."""
    for config in configs:
        outcome = ledger.load(config) or Outcome(config, OK, steps=1)
        ledger.save(outcome)
        yield outcome


def course(folder, shard):
    return running._Course(Ledger(folder), fake, shard, running.Progress(0), lambda progress: None)


def test_a_shard_alone_does_its_share_and_names_the_others(tmp_path):
    with Ledger(tmp_path).open_for(DESIGN, Shard(2, 3)):
        mine = course(tmp_path, Shard(2, 3))
        assert not mine.complete(PLAN)
    assert mine.missing == ("1/3", "3/3")
    assert [o.config for o in mine.ordered()] == Shard(2, 3).share(PLAN)


def test_the_last_shard_has_what_all_have_found(tmp_path):
    for index in (1, 2, 3):
        with Ledger(tmp_path).open_for(DESIGN, Shard(index, 3)):
            mine = course(tmp_path, Shard(index, 3))
            complete = mine.complete(PLAN)
    assert complete
    assert [o.config for o in mine.ordered()] == PLAN
    assert mine.progress.done == len(PLAN)


def test_a_shard_waits_for_those_that_run(tmp_path, monkeypatch):
    monkeypatch.setattr(running, "POLL", 0.01)
    waiting = threading.Event()
    found = []

    def second():
        with Ledger(tmp_path).open_for(DESIGN, Shard(2, 2)):
            ready.set()
            waiting.wait(30)
            found.append(course(tmp_path, Shard(2, 2)).complete(PLAN))

    ready = threading.Event()
    thread = threading.Thread(target=second)
    thread.start()
    ready.wait(30)
    look = Ledger.running_shards

    def look_and_tell(self, count):
        waiting.set()
        return look(self, count)

    monkeypatch.setattr(Ledger, "running_shards", look_and_tell)
    with Ledger(tmp_path).open_for(DESIGN, Shard(1, 2)):
        found.append(course(tmp_path, Shard(1, 2)).complete(PLAN))
    thread.join(30)
    assert found == [True, True]
