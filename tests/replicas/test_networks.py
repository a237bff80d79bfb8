"""DistributedDataParallel, FSDP, subgroups and `recalibrate`, beside one process."""

import pytest
import torch

import batchnorm as bn

from .networks import Job, batch, do, network, save_by, state, train_alone
from .shards import SPLITS, sizes
from .world import Worlds, needs_gloo

pytestmark = needs_gloo

WORLD = 3
JOBS = (
    *(Job(what, split) for what in ("ddp", "fsdp") for split in ("unequal", "first_empty")),
    *(Job("recalibrate", split) for split in SPLITS),
    Job("recalibrate", "first_empty", passes=None),
    Job("subgroups"),
    Job("functional"),
)
TRAINED = [job for job in JOBS if job.what in ("ddp", "fsdp")]
RECALIBRATED = [job for job in JOBS if job.what == "recalibrate"]
CLOSE = {"rtol": 1e-10, "atol": 1e-10}
"""All is float64: rounding of a few steps, far below what one value less would change."""


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    worlds = Worlds(do, JOBS, tmp_path_factory)
    return lambda job, world=WORLD: worlds.results(world, JOBS.index(job))


def assert_same(found):
    for other in found[1:]:
        for name, value in found[0].items():
            its = other[name]
            assert torch.equal(value, its) if torch.is_tensor(value) else value == its, name


@pytest.mark.parametrize("job", TRAINED, ids=lambda job: f"{job.what}-{job.split}")
def test_a_network_is_trained_as_by_one_process(done, job):
    found = done(job)
    assert_same(found)
    expected = train_alone()
    for name, value in state(expected).items():
        torch.testing.assert_close(found[0][name], value, **CLOSE)
    evaluated = expected.eval()(batch(0)).detach()
    torch.testing.assert_close(found[0]["evaluated"], evaluated, **CLOSE)


@pytest.mark.parametrize("job", TRAINED[::2], ids=lambda job: job.what)
def test_a_checkpoint_loads_wherever_it_goes(done, job, tmp_path):
    """Into one process without a group, and, in torch's classes, without this library."""
    saved = torch.load(save_by(WORLD, done(job), tmp_path))
    plain = torch.nn.Sequential(
        torch.nn.Conv2d(2, 4, 2),
        torch.nn.BatchNorm2d(4),
        torch.nn.Conv2d(4, 3, 1),
        torch.nn.BatchNorm2d(3),
    ).double()
    for model in (network(False), network(True), plain):
        model.load_state_dict(saved)
        again = state(model)
        assert again.keys() == saved.keys()
        assert all(torch.equal(again[name], saved[name]) for name in saved)
    model = network(True).eval()
    model.load_state_dict(saved)
    torch.testing.assert_close(model(batch(0)).detach(), done(job)[0]["evaluated"], **CLOSE)


@pytest.mark.parametrize("job", RECALIBRATED, ids=lambda job: f"{job.split}-{job.passes}")
def test_recalibrate_gives_all_replicas_the_statistics_of_all_batches(done, job):
    found = done(job)
    assert_same(found)
    model = train_alone(1, network(False))
    batches = [
        part
        for piece in batch(1).split(sizes(len(batch(1)), WORLD, job.split))
        for part in piece.split(4)
        if len(part)
    ]
    result = bn.recalibrate(model, batches, passes=job.passes, progress=False)
    for name, value in state(model).items():
        torch.testing.assert_close(found[0][name], value, **CLOSE)
    assert found[0]["values"] == result.layers[0].values
    assert found[0]["batches"] == result.batches == len(batches)


def test_subgroups_keep_to_themselves(done):
    found = done(Job("subgroups"))
    together = bn.BatchNorm1d(2)
    xs = [torch.arange(4.0).view(2, 2) + 10 * rank for rank in range(WORLD)]
    y = together(torch.cat(xs[:-1])).detach()
    torch.testing.assert_close(torch.cat([f["output"] for f in found[:-1]]), y)
    alone = bn.BatchNorm1d(2)
    torch.testing.assert_close(found[-1]["output"], alone(xs[-1]).detach())
    assert [f["mean"][0].item() for f in found] == pytest.approx([0.6, 0.6, 2.1])
    assert "sync=" in found[0]["repr"]


def test_the_functional_does_the_same(done):
    for rank, found in enumerate(done(Job("functional"))):
        y = (rank - 1) / (2 / 3 + 1e-5) ** 0.5
        torch.testing.assert_close(found["output"], torch.full((2, 1), y))
        assert found["mean"].item() == pytest.approx(0.1)
