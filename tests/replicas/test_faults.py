"""A replica that ends, or does something else than the others: an error that says so, no hang."""

import re

import pytest
import torch

import batchnorm as bn
from batchnorm.errors import OptionError, ShapeError, StatisticsError, SyncError

from . import faults
from .world import needs_gloo, run

pytestmark = [needs_gloo, pytest.mark.slow]

WORLD = 2
PATIENCE = 30
"""Far below the time-out of a collective, above what a loaded machine needs."""


@pytest.fixture
def do(tmp_path):
    def of(fault, may_die=()):
        return [found for (found,) in run(WORLD, faults.do, [fault], tmp_path, may_die)]

    return of


def test_the_watch_names_the_layer_the_call_and_who_is_missing(do):
    good, bad = do("skip_last")
    assert bad["error"] is None
    message = str(good["error"])
    assert isinstance(good["error"], SyncError)
    assert re.search(r"BatchNorm1d\(3\) at 'second', call 2 \(forward", message), message
    assert re.search(r"for replica 1 of ranks 0, 1", message), message
    assert faults.WAIT <= good["seconds"] < PATIENCE


def test_the_watch_says_who_is_at_another_layer(do):
    order = ("first", "second"), ("second", "first")
    for (mine, its), found in zip(order, do("skip_first"), strict=True):
        message = str(found["error"])
        assert isinstance(found["error"], SyncError)
        assert f"at '{mine}', call 2" in message.partition(" (forward")[0], message
        assert re.search(rf"but replica [01] is at BatchNorm1d\(3\) at '{its}', call 2", message)
        assert found["same"]
        assert found["seconds"] < faults.WAIT + PATIENCE


def test_the_watch_sees_a_backward_pass_that_is_missing(do):
    good, _ = do("no_backward")
    assert isinstance(good["error"], SyncError)
    assert re.search(r"at 'second', call 2 \(backward.*replica 1", str(good["error"]))


def test_the_watch_is_quiet_where_nothing_is_wrong(do):
    first, second = do("watched")
    assert first["error"] is second["error"] is None
    assert len(first["after"]) == 4
    assert len(second["after"]) == 5


@pytest.mark.parametrize("fault", ["killed", "killed_in_backward"])
def test_a_killed_replica_is_an_error_of_the_others(fault, tmp_path):
    (found,), died = run(WORLD, faults.do, [fault], tmp_path, may_die=[1])
    assert died == []
    assert isinstance(found["error"], SyncError)
    assert re.search(r"BatchNorm1d\(3\) at '(first|second)', call 2", str(found["error"]))
    assert found["seconds"] < PATIENCE
    assert found["same"] == (fault == "killed")


def test_the_watch_names_a_killed_replica(tmp_path):
    (found,), _ = run(WORLD, faults.do, ["killed_watched"], tmp_path, may_die=[1])
    assert re.search(r"at 'first', call 2 .*for replica 1 of ranks 0, 1", str(found["error"]))
    assert found["same"]


@pytest.mark.parametrize(
    ("fault", "error"), [("wrong_shape", ShapeError), ("bad_weight", StatisticsError)]
)
def test_a_batch_that_one_refuses_is_refused_by_all_and_training_goes_on(do, fault, error):
    good, bad = do(fault)
    assert isinstance(bad["error"], error)
    assert isinstance(good["error"], SyncError)
    assert "refused by replica 1" in str(good["error"])
    assert good["same"]
    assert bad["same"]
    together = torch.cat([faults.batch(0), faults.batch(1)])
    expected = torch.nn.Sequential(bn.BatchNorm1d(3), bn.BatchNorm1d(3))(together)
    torch.testing.assert_close(torch.cat([good["after"], bad["after"]]), expected.detach())


@pytest.mark.parametrize("given", ["soon", "0", "-1"])
def test_a_time_that_is_none_is_refused(given, monkeypatch):
    from batchnorm.distributed import watch

    monkeypatch.setenv("BATCHNORM_SYNC_DEBUG", "1")
    assert watch.seconds() == watch.SECONDS
    monkeypatch.setenv("BATCHNORM_SYNC_TIMEOUT", given)
    with pytest.raises(OptionError, match="BATCHNORM_SYNC_TIMEOUT"):
        watch.seconds()


def test_a_block_needs_a_positive_time():
    with pytest.raises(OptionError, match="positive timeout"), bn.sync_debug(0):
        pass
