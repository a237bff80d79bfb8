"""A problem, cut into what each replica has of it, and put together again."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kinds import Kind
from problems import EPS, Problem, make_problem, our_way, solve

SPLITS = ("even", "unequal", "first_empty", "last_empty")
SUMMED = ("grad_weight", "grad_bias")
SHARED = ("running_mean", "running_var")


@dataclass(frozen=True)
class Shared:
    """A kind of call that all replicas make together."""

    kind: Kind
    dtype: torch.dtype
    split: str
    mean: float = 3.0
    std: float = 2.0

    def __str__(self) -> str:
        hostile = "" if (self.mean, self.std) == (3.0, 2.0) else f"-{self.mean:g}-{self.std:g}"
        return f"{self.kind}-{str(self.dtype).partition('.')[2]}-{self.split}{hostile}"

    def problem(self) -> Problem:
        """The whole one."""
        return make_problem(self.kind, self.dtype, self.mean, self.std)


def sizes(samples: int, world: int, split: str) -> list[int]:
    """How many samples each replica has."""
    if world == 1:
        return [samples]
    if split == "unequal":  # about half, a quarter, the rest
        found = [samples >> (rank + 1) for rank in range(world - 1)]
        return [*found, samples - sum(found)]
    empty = {"first_empty": [0], "last_empty": [world - 1]}.get(split, [])
    there = [rank for rank in range(world) if rank not in empty]
    found = [0] * world
    for sample in range(samples):
        found[there[sample % len(there)]] += 1
    return found


def cut(problem: Problem, parts: list[int], rank: int) -> Problem:
    """What a replica has of a problem."""
    whole = {
        name: value
        for name, value in problem._asdict().items()
        if name in ("x", "grad_y", "residual", "mask", "sample_weight") and value is not None
    }
    return problem._replace(**{name: value.split(parts)[rank] for name, value in whole.items()})


def solve_shard(rank: int, world: int, case: Shared) -> dict[str, Tensor | None]:
    """What a replica computes of its own shard and what it hears of the others."""
    problem = case.problem()
    parts = sizes(case.kind.shape[0], world, case.split)
    return solve(our_way(case.kind, sync=True), cut(problem, parts, rank))


def join(solutions: list[dict[str, Any]]) -> dict[str, Tensor | None]:
    """What all have computed: gradients of parameters add up, running statistics are equal."""
    joined: dict[str, Tensor | None] = {}
    for name, first in solutions[0].items():
        found = [solution[name] for solution in solutions]
        if first is None:
            joined[name] = None
        elif name in SUMMED:
            joined[name] = torch.stack(found).double().sum(0).to(first.dtype)
        elif name in SHARED:
            for other in found[1:]:
                assert torch.equal(first.nan_to_num(7.0), other.nan_to_num(7.0)), name
            joined[name] = first
        else:
            joined[name] = torch.cat(found)
    return joined


__all__ = ["EPS", "SPLITS", "Shared", "cut", "join", "sizes", "solve_shard"]
