"""A network trained by replicas through the tools of torch, and by one process with all samples."""

import copy
import pickle
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

import batchnorm as bn
from batchnorm.functional import batch_norm

from .shards import sizes

STEPS, SAMPLES, RATE = 3, 13, 0.1


class Job(NamedTuple):
    """What is done with the network.

    Args:
        what: "ddp", "fsdp", "recalibrate", "subgroups" or "functional".
        split: How the samples lie on the replicas.
        passes: Of `recalibrate`.
    """

    what: str
    split: str = "unequal"
    passes: int | None = 1


def network(sync: Any, dtype: torch.dtype = torch.float64) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 4, 2),
        bn.BatchNorm2d(4, activation="relu", sync=sync),
        nn.Conv2d(4, 3, 1),
        bn.BatchNorm2d(3, sync=sync),
    ).to(dtype)


def batch(step: int) -> Tensor:
    generator = torch.Generator().manual_seed(step)
    return torch.randn(SAMPLES + step, 2, 3, 3, dtype=torch.float64, generator=generator) + step


def shard(step: int, rank: int, world: int, split: str) -> Tensor:
    x = batch(step)
    return x.split(sizes(len(x), world, split))[rank]


def loss(y: Tensor, total: int) -> Tensor:
    """The part of these samples in the mean over all."""
    return (y - 1).square().sum() / total


def state(model: nn.Module) -> dict[str, Tensor]:
    return {
        name: (t.full_tensor() if hasattr(t, "full_tensor") else t).detach().clone()
        for name, t in model.state_dict().items()
    }


def descend(model: nn.Module) -> None:
    torch.optim.SGD(model.parameters(), RATE).step()
    model.zero_grad()


def train_alone(steps: int = STEPS, model: nn.Module | None = None) -> nn.Module:
    model = network(False) if model is None else model
    for step in range(steps):
        x = batch(step)
        loss(model(x), len(x)).backward()
        descend(model)
    return model


def do(rank: int, world: int, job: Job) -> Any:
    return JOBS[job.what](rank, world, job)


def _train(rank: int, world: int, job: Job, model: nn.Module, wrapped: nn.Module) -> dict[str, Any]:
    for step in range(STEPS):
        x = shard(step, rank, world, job.split)
        # These tools average gradients over replicas; the sum is wanted.
        (world * loss(wrapped(x), len(batch(step)))).backward()
        descend(wrapped)
    found = state(model)
    model.eval()
    return found | {"evaluated": wrapped(batch(0)).detach()}


def ddp(rank: int, world: int, job: Job) -> dict[str, Any]:
    model = network(True)
    return _train(rank, world, job, model, DistributedDataParallel(model))


def fsdp(rank: int, world: int, job: Job) -> dict[str, Any]:
    mesh = dist.device_mesh.init_device_mesh("cpu", (world,))
    model = network(True)
    for layer in model:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return _train(rank, world, job, model, model)


def recalibrate(rank: int, world: int, job: Job) -> dict[str, Any]:
    model = train_alone(1, network(True))
    parts = shard(1, rank, world, job.split).split(4)
    batches = [part for part in parts if len(part)]
    result = bn.recalibrate(model, batches, passes=job.passes, progress=False, sync=True)
    return state(model) | {"values": result.layers[0].values, "batches": result.batches}


def subgroups(rank: int, world: int, job: Job) -> dict[str, Any]:
    """The last replica is alone; the others are a group."""
    groups = [dist.new_group(list(range(world - 1))), dist.new_group([world - 1])]
    layer = bn.BatchNorm1d(2, sync=groups[rank == world - 1])
    layer = copy.deepcopy(pickle.loads(pickle.dumps(layer)))
    x = torch.arange(4.0).view(2, 2) + 10 * rank
    y = layer(x)
    return {"output": y.detach(), "mean": layer.running_mean, "repr": repr(layer)}


def functional(rank: int, world: int, job: Job) -> dict[str, Any]:
    running = torch.zeros(1), torch.ones(1)
    y = batch_norm(torch.full((2, 1), float(rank)), *running, training=True, sync=True)
    return {"output": y, "mean": running[0]}


JOBS = {
    "ddp": ddp,
    "fsdp": fsdp,
    "recalibrate": recalibrate,
    "subgroups": subgroups,
    "functional": functional,
}


def save_by(world: int, found: list[Any], folder: Path) -> Path:
    """Save what the first replica has."""
    path = folder / f"{world}.pt"
    torch.save({k: v for k, v in found[0].items() if k != "evaluated"}, path)
    return path
