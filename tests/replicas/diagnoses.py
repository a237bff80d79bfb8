"""Replicas that diagnose a network together, each with batches of its own."""

import os
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

import batchnorm as bn

SIZES = (5, 8, 3, 9, 6)
"""Samples of each batch."""
SHARE = (3, 2)
"""Batches of each replica."""
BOOM = "the disk is gone"

Batch = tuple[Tensor, Tensor]


class Case(NamedTuple):
    """One diagnosis by two replicas.

    Args:
        what: A name.
        shares: How many batches each replica has.
        sync_layers: Whether the layers are synchronized.
        moved: How far the running means of the second replica are off.
        fails_at: Call of the second replica's forward that raises; 0: its loader does.
        dies: Whether it ends without a word instead.
        other: Whether the second replica has another model.
        alone: Whether each is in a group of its own.
        wrapped: Whether in DistributedDataParallel, which sends buffers around in every forward.
        nan: Whether the second replica has a NaN, which its layers refuse.
    """

    what: str
    shares: tuple[int, int] = SHARE
    sync_layers: bool = False
    moved: float = 0.0
    fails_at: int | None = None
    dies: bool = False
    other: bool = False
    alone: bool = False
    wrapped: bool = False
    nan: bool = False


def network(sync: bool = False) -> nn.Sequential:
    """Statistics that were never updated, a saturated sigmoid, a bias for nothing.

    One unit is dead, and one on the first replica only: there -x̂ stays below 1.9, then reaches 2.2.
    """
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv1d(2, 4, 2),
        bn.BatchNorm1d(4, activation="relu", sync=sync),
        nn.Conv1d(4, 3, 1),
        bn.BatchNorm1d(3, sync=sync),
        nn.Sigmoid(),
        nn.Flatten(),
        nn.Linear(9, 3),
    ).double()
    with torch.no_grad():
        model[1].bias[2] = -9
        model[1].weight[0], model[1].bias[0] = -1, -2.05
        model[3].bias[0] = 5
    return model


def batches() -> list[Batch]:
    """All there are; they are not alike."""
    generator = torch.Generator().manual_seed(3)
    found = []
    for number, size in enumerate(SIZES):
        x = torch.randn(size, 2, 4, dtype=torch.float64, generator=generator) + 2 + number / 2
        found.append((x, torch.arange(size) % 3))
    return found


def shard(case: Case, rank: int) -> list[Batch]:
    """Those of a replica."""
    start = sum(case.shares[:rank])
    found = batches()[start : start + case.shares[rank]]
    if case.nan and rank:
        found[0][0][0] = torch.nan
    return found


def loss(output: Tensor, batch: Batch) -> Tensor:
    return functional.cross_entropy(output, batch[1])


def moved(model: nn.Module, by: float) -> nn.Module:
    """Let the running means be elsewhere."""
    for module in model.modules():
        if isinstance(module, bn.BatchNorm1d):
            module.running_mean += by
    return model


def refusing(model: nn.Module, nan: bool) -> nn.Module:
    """Let layers refuse a NaN."""
    for module in model.modules():
        if isinstance(module, bn.BatchNorm1d) and nan:
            module.nonfinite = "raise"
    return model


def optimizer(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=0.01)


def failing(case: Case, rank: int) -> Any:
    """Make the loader and the forward of a replica, of which one may raise."""
    its = rank == 1 and case.fails_at is not None
    calls = 0

    def loader() -> Iterator[Batch]:
        yield from shard(case, rank)
        raise ValueError(BOOM)

    def forward(model: Any, batch: Batch) -> Tensor:
        nonlocal calls
        calls += 1
        if its and calls == case.fails_at:
            if case.dies:
                os._exit(9)
            raise ValueError(BOOM)
        return model(batch[0])

    return loader() if its and not case.fails_at else shard(case, rank), forward


def do(rank: int, world: int, case: Case) -> dict[str, Any]:
    model = (
        refusing(network(case.sync_layers), case.nan)
        if not (case.other and rank)
        else network()[:3]
    )
    model = DistributedDataParallel(model) if case.wrapped else model
    moved(model, case.moved * rank).train()
    before = {name: t.clone() for name, t in model.state_dict().items()}
    source, forward = failing(case, rank)
    sync: Any = [dist.new_group([r]) for r in range(world)][rank] if case.alone else True
    example = (shard(case, rank)[0][0],)
    result: dict[str, Any] = {}
    try:
        found = bn.diagnose(
            model,
            source,
            loss,
            forward=forward,
            optimizer=optimizer(model),
            example=example,
            sync=sync,
            progress=False,
        )
        result = told(found)
    except Exception as error:
        result["error"] = error
    after = model.state_dict()
    result["restored"] = all(torch.equal(t, after[name]) for name, t in before.items())
    return result


def told(found: bn.Diagnosis) -> dict[str, Any]:
    """Give of a diagnosis what can be compared."""
    assert found.evidence is not None
    return {
        "findings": found.findings,
        "layers": found.result.layers,
        "network": found.result.quantities,
        "runs": {name: dict(layer.runs) for name, layer in found.evidence.layers.items()},
        "activations": dict(found.evidence.activations),
        "parameters": dict(found.evidence.parameters),
        "losses": dict(found.evidence.losses),
        "loader": found.evidence.loader,
        "world": (found.evidence.world_size, found.evidence.replicas),
        "gaps": dict(found.evidence.gaps),
        "notes": found.evidence.notes,
    }
