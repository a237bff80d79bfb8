"""DistributedDataParallel over gloo: two processes end with the state that one would compute."""

import pytest
import torch
from torch import distributed

from .cases import OPTIONS, assert_close
from .replicas import Scenario, expect, run

SCENARIOS = [
    *(Scenario(options, step) for options in OPTIONS for step in ("one", "two")),
    *(Scenario(step=step, broadcast_buffers=False) for step in ("one", "two", "pooled")),
    *(Scenario(step=step, find_unused_parameters=True) for step in ("one", "two")),
    Scenario(step="pooled"),
    Scenario(step="checkpointed"),
    Scenario("renorm", "checkpointed"),
    *(Scenario(step=step, frozen=True) for step in ("one", "two")),
    Scenario("renorm", "two", broadcast_buffers=False),
]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (distributed.is_available() and distributed.is_gloo_available()),
        reason="needs torch.distributed with gloo",
    ),
]


def name(scenario):
    default = Scenario()._asdict()
    chosen = {k: v for k, v in scenario._asdict().items() if v != default[k]}
    return ", ".join(f"{k}={v}" for k, v in chosen.items()) or "default"


@pytest.fixture(scope="module")
def replicas(tmp_path_factory):
    return run(SCENARIOS, tmp_path_factory.mktemp("replicas"))


@pytest.mark.parametrize("index", range(len(SCENARIOS)), ids=lambda k: name(SCENARIOS[k]))
def test_replicas_end_with_the_state_that_one_process_computes(replicas, index):
    for found, expected in zip(replicas, expect(SCENARIOS[index]), strict=True):
        found = found[index]
        assert isinstance(found, dict), found
        assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("index", range(len(SCENARIOS)), ids=lambda k: name(SCENARIOS[k]))
def test_replicas_have_the_same_parameters(replicas, index):
    first, second = (found[index] for found in replicas)
    names = [name for name in first if name.endswith(("weight", "bias"))]
    assert_close({n: first[n] for n in names}, {n: second[n] for n in names}, rtol=0, atol=0)
    assert all(torch.isfinite(tensor).all() for tensor in first.values())
