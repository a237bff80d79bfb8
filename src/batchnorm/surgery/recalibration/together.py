"""What all replicas have measured, pooled: each has gone through batches of its own."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ... import distributed
from ...moments import Moments
from ...ops.merged import Replicas
from .meter import Layers
from .population import Population

SITE = distributed.Site("recalibrate")


class Outcome(NamedTuple):
    """What a pass over the batches has found.

    Args:
        populations: By the names of the layers.
        batches: How many there were.
        converged: Whether nothing moved any more.
    """

    populations: dict[str, Population]
    batches: int
    converged: bool


def others(sync: distributed.Sync) -> Callable[[], Replicas | None]:
    """Make what finds the other replicas, for one collective at a time."""
    held = distributed.check_sync(sync)
    return lambda: distributed.replicas(held, SITE)


def pooled(found: Outcome, replicas: Replicas | None) -> Outcome:
    """Pool what all replicas have found, in one collective; alone: give it as it is."""
    if replicas is None:
        return found
    head = [float(found.batches), float(found.converged)]
    vectors = [_vectors(population) for population in found.populations.values()]
    device = vectors[0].device if vectors else None
    row = torch.cat([torch.tensor(head, dtype=torch.float64, device=device), *vectors])
    rows = replicas.gather(row)
    at = len(head)
    merged = {}
    for (name, mine), vector in zip(found.populations.items(), vectors, strict=True):
        merged[name] = _merged(mine, rows[:, at : at + len(vector)])
        at += len(vector)
    return Outcome(merged, int(rows[:, 0].sum()), bool(rows[:, 1].all()))


def same_order(order: list[str], layers: Layers, replicas: Replicas | None) -> list[str]:
    """Agree on the order of the first replica that has called a layer."""
    if replicas is None:
        return order
    names = list(layers)
    numbers = [names.index(name) for name in order]
    told_by_me = [*numbers, *[-1] * (len(names) - len(numbers))]
    device = next(m.running_mean.device for m in layers.values() if m.running_mean is not None)
    row = torch.tensor(told_by_me, dtype=torch.float64, device=device)
    for told in replicas.gather(row).long().tolist():
        if told and told[0] >= 0:
            return [names[number] for number in told if number >= 0]
    return order


def _vectors(population: Population) -> Tensor:
    count, mean, m2, effective = population.moments
    effective = count if effective is None else effective
    numbers = count.new_tensor([population.batches])
    return torch.cat([numbers, count, mean, m2, effective, population.left_out.double()])


def _merged(mine: Population, rows: Tensor) -> Population:
    channels = mine.moments.mean.shape[0]
    every = [Moments(*row[1 : 1 + 4 * channels].view(4, channels)) for row in rows]
    moments = every[0]
    for other in every[1:]:
        moments = moments.merge(other)
    left_out = rows[:, 1 + 4 * channels :].sum(0).to(torch.int64)
    return Population(moments, mine.before, left_out, int(rows[:, 0].sum()))
