"""Layers with every option and in every tool: replicas compute what one process would."""

import pytest
import torch

from batchnorm.errors import StatisticsError
from batchnorm.ops.merged import HEAD

from .shards import sizes
from .training import CHANNELS, RENORM, SAMPLES, STEPS, Training, train_alone, train_replica
from .world import Worlds, needs_gloo

pytestmark = needs_gloo

WORLDS = (2, pytest.param(3, marks=pytest.mark.slow))
CASES = (
    Training("plain"),
    Training("empty", split="first_empty"),
    Training("momentum", {"momentum": None}, split="last_empty"),
    Training("renorm", {"renorm": RENORM}),
    Training("activation", {"activation": "silu"}, given=("residual",)),
    Training("everything", {"activation": "relu"}, given=("residual", "mask", "sample_weight")),
    Training("notrack", {"track_running_stats": False}),
    Training("pooled", split="last_empty", pooled=True),
    Training("nan", nan=True),
    Training("nan average", {"momentum": None}, nan=True),
    Training("nan propagated", {"nonfinite": "propagate"}, nan=True),
    Training("checkpoint", way="checkpoint", split="last_empty"),
    Training("checkpoint renorm", {"renorm": RENORM}, way="checkpoint"),
    Training("checkpoint given", way="checkpoint", given=("mask", "sample_weight")),
    Training("reentrant", way="reentrant"),
    Training("recompute", {"activation": "relu"}, way="recompute"),
    Training("copy", way="copy"),
    Training("pickle", {"renorm": RENORM}, way="pickle"),
    # In the backward pass: the moments as a function of x, two sums; then a derivative of each.
    Training("second", second=True, backward=4),
    Training("second empty", {"activation": "silu"}, split="first_empty", second=True, backward=4),
    Training(
        "second everything",
        {"activation": "silu"},
        given=("residual", "mask", "sample_weight"),
        second=True,
        backward=4,
    ),
)
COMPILED = (
    Training("compile", way="compile"),
    Training(
        "compile everything",
        {"activation": "silu", "renorm": RENORM, "momentum": None},
        way="compile",
        given=("residual", "mask", "sample_weight"),
    ),
)
RAISED = Training("nan raised", {"nonfinite": "raise"}, nan=True)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return Worlds(train_replica, [*CASES, RAISED], tmp_path_factory)


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    return Worlds(train_replica, COMPILED, tmp_path_factory, deadline=400)


def joined(name, parts):
    """What all replicas have of a result, put together."""
    if name in ("output", "grad_x", "second_x"):
        return torch.cat(parts)
    if name.startswith(("grad", "second")):
        return torch.stack(parts).sum(0)
    for part in parts[1:]:
        assert torch.equal(part.nan_to_num(7.0), parts[0].nan_to_num(7.0)), name
    return parts[0]


def assert_as_alone(case, found):
    for step, expected in enumerate(train_alone(case)):
        pieces = [result[step] for result in found]
        for name in expected.keys() - {"forward", "backward"}:
            values = joined(name, [piece[name] for piece in pieces])
            # float64 all through: a thousand operations' worth of rounding, in units of the sums.
            torch.testing.assert_close(
                values,
                expected[name],
                rtol=1e-11,
                atol=1e-11,
                equal_nan=True,
                msg=lambda text, name=name: f"{name}: {text}",
            )


def assert_few_collectives(case, found):
    for result in found:
        step = result[-1]
        assert step["forward"].collectives == case.forward
        assert step["backward"].collectives == case.backward
        if not case.second:
            assert step["forward"].numbers == HEAD + 3 * CHANNELS
            assert step["backward"].numbers == 2 * CHANNELS


@pytest.mark.parametrize("index", range(len(CASES)), ids=lambda k: CASES[k].name)
@pytest.mark.parametrize("world", WORLDS)
def test_replicas_train_as_one_process_with_the_whole_batch(trained, world, index):
    assert_as_alone(CASES[index], trained.results(world, index))


@pytest.mark.parametrize("index", range(len(CASES)), ids=lambda k: CASES[k].name)
@pytest.mark.parametrize("world", WORLDS)
def test_there_is_one_collective_forward_and_one_backward(trained, world, index):
    assert_few_collectives(CASES[index], trained.results(world, index))


@pytest.mark.slow
@pytest.mark.parametrize("index", range(len(COMPILED)), ids=lambda k: COMPILED[k].name)
def test_compiled_layers_do_the_same(compiled, index):
    found = compiled.results(2, index)
    assert_as_alone(COMPILED[index], found)
    assert_few_collectives(COMPILED[index], found)


@pytest.mark.parametrize("world", WORLDS)
def test_all_replicas_refuse_what_is_not_finite_on_one(trained, world):
    for of_rank in trained(world):
        error = of_rank[len(CASES)]
        assert isinstance(error, StatisticsError), error
        assert "expected a finite mean and variance" in str(error)


def test_some_replica_is_empty_where_a_case_says_so():
    assert all(0 in sizes(SAMPLES[k], 3, "first_empty") for k in range(STEPS))
