"""`diagnose(sync=True)`: all replicas find what one process would find in the batches of all."""

import dataclasses

import pytest
import torch
from torch import Tensor

import batchnorm as bn
from batchnorm.diagnosis.evidence import RECALIBRATED, REDRAWN
from batchnorm.errors import OptionError, SyncError

from .diagnoses import BOOM, SHARE, Case, batches, do, loss, moved, network, optimizer, shard, told
from .world import Worlds, needs_gloo, run

pytestmark = [needs_gloo, pytest.mark.slow]

WHOLE = Case("whole")
MOVED = Case("moved", moved=3.0)
TALKING = Case("synchronized", shares=(2, 2), sync_layers=True)
TALKING_UNEQUALLY = Case("synchronized unequally", sync_layers=True)
OTHER = Case("another model", other=True)
ALONE = Case("groups of one", alone=True)
LOADER = Case("loader", fails_at=0)
# With two batches: 1 the bins, 2-3 batch, 4-5 training, 6-7 inference, 8-9 redrawn, 10 a step,
# 11-14 companions, 15-16 recalibrate, 17-18 recalibrated.
FORWARDS = [Case(f"forward {n}", fails_at=n) for n in (1, 3, 5, 15, 16, 18)]
WRAPPED = Case("wrapped", shares=(2, 2), wrapped=True, moved=3.0)
WRAPPED_UNEQUALLY = Case("wrapped unequally", wrapped=True)
NAN = Case("nan", nan=True)
CASES = (
    *(LOADER, *FORWARDS, NAN),
    *(WHOLE, MOVED, TALKING, TALKING_UNEQUALLY, WRAPPED, WRAPPED_UNEQUALLY, OTHER, ALONE),
)

CLOSE = {"rtol": 1e-11, "atol": 1e-11}
"""All is float64. Pooled statistics round otherwise: by some 31·3 values · 2^-53 = 1e-14, times
(mean / deviation)² < 20 where squares are taken, and through three layers; below 1e-12."""

OWN = ("gap_redrawn", "cost")
"""Numbers that are not those of one process: samples are redrawn among those of a replica."""


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    worlds = Worlds(do, CASES, tmp_path_factory)
    return lambda case: worlds.results(2, CASES.index(case))


def alone(model, data, **kwargs):
    """By one process."""
    example = (data[0][0],)
    model.train()
    return told(
        bn.diagnose(
            model,
            data,
            loss,
            forward=lambda m, batch: m(batch[0]),
            optimizer=optimizer(model),
            example=example,
            progress=False,
            **kwargs,
        )
    )


def assert_close(a, b, where=""):
    """Compare records of numbers and tensors, all the way down."""
    assert type(a) is type(b), where
    if dataclasses.is_dataclass(a):
        for field in dataclasses.fields(a):
            assert_close(getattr(a, field.name), getattr(b, field.name), f"{where}.{field.name}")
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key, value in a.items():
            assert_close(value, b[key], f"{where}[{key}]")
    elif isinstance(a, tuple | list):
        assert len(a) == len(b), where
        for number, (one, other) in enumerate(zip(a, b, strict=True)):
            assert_close(one, other, f"{where}[{number}]")
    elif isinstance(a, Tensor | float):
        torch.testing.assert_close(
            torch.as_tensor(a), torch.as_tensor(b), equal_nan=True, **CLOSE, msg=lambda m: where + m
        )
    else:
        assert a == b, where


def without_redrawn(found):
    """Leave out what is each replica's own."""
    return found | {
        "network": {name: v for name, v in found["network"].items() if name not in OWN},
        "runs": {
            name: {run: calls for run, calls in runs.items() if run != REDRAWN}
            for name, runs in found["runs"].items()
        },
        "losses": {run: v for run, v in found["losses"].items() if run != REDRAWN},
        "gaps": {pair: gap for pair, gap in found["gaps"].items() if REDRAWN not in pair},
    }


def test_all_find_what_one_process_finds(done):
    first, second = done(WHOLE)
    assert first.pop("restored") and second.pop("restored")
    # That there are two replicas is known to one process from a second state dict.
    expected = alone(network(), batches(), replicas=[network().state_dict()])
    expected["world"] = (2, 1)
    expected["loader"] = dataclasses.replace(expected["loader"], last_size=3)  # of the first
    assert len(expected["findings"]) > 3
    assert expected["layers"][0].quantities["dead_units"] == 0.25
    assert expected["layers"][1].quantities["saturated"] > 0.02
    of_first = alone(network(), shard(WHOLE, 0))
    assert of_first["layers"][0].quantities["dead_units"] == 0.5
    for found in (first, second):
        assert_close(without_redrawn(found), without_redrawn(expected))
    assert_same(first, second)


def assert_same(first, second):
    for key in ("findings", "layers", "network", "parameters", "losses", "loader", "gaps"):
        assert first[key] == second[key], key
    for name, runs in first["runs"].items():
        for key, calls in runs.items():
            other = second["runs"][name][key]
            assert calls.batch == other.batch and torch.equal(calls.mean, other.mean)


def test_batches_keep_their_numbers_and_samples_are_redrawn_within_a_replica(done):
    found = done(WHOLE)[0]
    for runs in found["runs"].values():
        for calls in runs.values():
            assert calls.batch == tuple(range(sum(SHARE)))
    redrawn = found["runs"]["1"][REDRAWN]
    for rank, rows in enumerate((slice(0, 3), slice(3, 5))):
        x = torch.cat([network()[0](x).detach() for x, _ in shard(WHOLE, rank)])
        count, mean = redrawn.count[rows], redrawn.mean[rows]
        pooled = (count * mean).sum(0) / count.sum(0)
        torch.testing.assert_close(pooled, x.mean((0, 2)), **CLOSE)


def test_diverged_buffers_are_found_without_state_dicts(done):
    first, second = done(MOVED)
    state = moved(network(), MOVED.moved).state_dict()
    expected = alone(network(), batches(), replicas=[state])
    for found in (first, second):
        its, those = (of(f, "diverged_replicas") for f in (found, expected))
        assert [f.layer for f in its] == ["1", "3"]
        assert [f.numbers["replicas"] for f in its] == [1.0, 1.0]
        assert_close(its, those)
        assert found["restored"]
    assert_same(first, second)
    assert not of(done(WHOLE)[0], "diverged_replicas")


def of(found, rule):
    return [finding for finding in found["findings"] if finding.rule == rule]


@pytest.mark.parametrize("case", [LOADER, *FORWARDS], ids=lambda case: case.what)
def test_one_that_fails_is_an_error_of_the_others(done, case):
    first, second = done(case)
    assert first["restored"] and second["restored"]
    assert isinstance(second["error"], ValueError) and str(second["error"]) == BOOM
    assert isinstance(first["error"], SyncError)
    message = str(first["error"])
    assert "replica 1 of ranks 0, 1 has failed" in message
    assert f"ValueError: {BOOM}" in message


@pytest.mark.parametrize("call", [3, 16])
def test_one_that_ends_is_an_error_of_the_others(tmp_path, call):
    case = Case("ends", fails_at=call, dies=True)
    ((found,), nothing) = run(2, do, [case], tmp_path, may_die=[1])
    assert not nothing and found["restored"]
    assert isinstance(found["error"], SyncError)
    assert "may have ended" in str(found["error"])


def test_synchronized_layers_need_as_many_batches(done):
    first, second = done(TALKING)
    assert_same(first, second)
    assert first["restored"] and second["restored"]
    assert first["world"] == (2, 1)
    for found in (*done(TALKING_UNEQUALLY), *done(WRAPPED_UNEQUALLY)):
        assert isinstance(found["error"], OptionError) and found["restored"]
        assert "found 3, 2" in str(found["error"])


def test_a_wrapped_model_is_diagnosed_and_keeps_its_buffers(done):
    first, second = done(WRAPPED)
    assert_same(first, second)
    assert first["restored"] and second["restored"]
    assert [f.layer for f in of(first, "diverged_replicas")] == ["module.1", "module.3"]


def test_a_nan_on_one_replica_is_a_note_of_all(done):
    first, second = done(NAN)
    assert first["restored"] and second["restored"]
    assert first["notes"] == second["notes"]
    assert "could not be measured anew: 1: expected a finite mean" in first["notes"][0]
    names = [[(f.rule, f.layer) for f in found["findings"]] for found in (first, second)]
    assert names[0] == names[1]
    assert all(RECALIBRATED not in runs for runs in first["runs"].values())


def test_models_have_to_be_alike(done):
    for found in done(OTHER):
        assert isinstance(found["error"], SyncError) and found["restored"]
        assert "different batch normalization layers" in str(found["error"])


def test_a_group_of_one_is_as_without(done):
    for rank, found in enumerate(done(ALONE)):
        expected = alone(network(), shard(ALONE, rank))
        expected["world"] = (2, 0)  # processes there are, whoever is asked
        for name in ("network", "runs", "gaps", "losses", "loader", "activations"):
            assert_close(without_redrawn(found)[name], without_redrawn(expected)[name], name)
        assert found["world"] == expected["world"]


def test_without_a_process_group_nothing_is_exchanged():
    found = alone(network(), batches(), sync=True)
    assert found["findings"] == alone(network(), batches())["findings"]
    assert found["world"] == (1, 0)


def test_what_is_no_group_is_not_taken():
    with pytest.raises(OptionError, match="expected sync to be a bool"):
        alone(network(), batches(), sync="yes")
