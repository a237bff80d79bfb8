"""The two collectives of a layer: all rows in the forward pass, one sum in the backward pass."""

import itertools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist

from ..errors import SyncError
from ..ops.merged import nothing
from . import watch
from .group import Held, find

_gather = getattr(dist, "all_gather_single", None) or getattr(dist, "all_gather_into_tensor", None)


class Site:
    """Where calls come from: a layer, or all calls of the functional.

    Args:
        kind: What it is, for messages.
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.name: str | None = None
        self.calls = itertools.count(1)

    def __reduce__(self) -> tuple[type, tuple[str]]:
        """A copy counts its own calls."""
        return Site, (self.kind,)

    def describe(self, number: int) -> str:
        """Name a call for a message."""
        return f"{self.name or self.kind}, call {number}"


class Call:
    """One call of a layer, by all replicas; fulfils `ops.merged.Replicas`.

    Args:
        group: The process group.
        site: Where the call comes from; None in a compiled graph, which nobody can interrupt.
    """

    def __init__(self, group: Any, site: Site | None) -> None:
        self.group = group
        self.size: int = group.size()
        self.rank: int = group.rank()
        self.site = site
        self.number = 0 if site is None else next(site.calls)
        self.joined = False

    def gather(self, row: Tensor) -> Tensor:
        """Give the rows of all replicas, (W, n)."""
        if torch.compiler.is_compiling():
            ops = torch.ops._c10d_functional
            name = self.group.group_name
            rows = ops.all_gather_into_tensor.default(row.contiguous(), self.size, name)
            waited: Tensor = ops.wait_tensor.default(rows)
            return waited.view(self.size, -1)
        self.joined = True
        every = row.new_empty(self.size * row.numel())
        assert _gather is not None
        self._run("forward", row.numel(), lambda: _gather(every, row.contiguous(), self.group))
        return every.view(self.size, -1)

    def total(self, sums: Tensor) -> Tensor:
        """Give the sum over all replicas."""
        if torch.compiler.is_compiling():
            ops = torch.ops._c10d_functional
            total = ops.all_reduce.default(sums.contiguous(), "sum", self.group.group_name)
            waited: Tensor = ops.wait_tensor.default(total)
            return waited
        copy = sums.clone(memory_format=torch.contiguous_format)
        self._run("backward", copy.numel(), lambda: dist.all_reduce(copy, group=self.group))
        return copy

    def refuse(self, channels: int, like: Tensor) -> None:
        """Let the others know that there is nothing to come, unless they know what came."""
        if not self.joined and not torch.compiler.is_compiling():
            with torch.no_grad():
                self.gather(nothing(channels, like, refused=True).row())

    def _run(self, phase: str, numbers: int, collective: Callable[[], Any]) -> None:
        where = "" if self.site is None else self.site.describe(self.number)
        watch.meet(self.group, f"{where} ({phase} of {numbers} numbers)")
        try:
            collective()
        except RuntimeError as error:
            raise SyncError(
                f"{where}: the {phase} pass could not talk to the other replicas of "
                f"{_members(self.group)}. One of them may have ended, or be at another layer; "
                f"BATCHNORM_SYNC_DEBUG=1 says which. It was said: {str(error).splitlines()[0]}"
            ) from error


def replicas(sync: bool | Held, site: Site, name: Callable[[], str] | None = None) -> Call | None:
    """Give the others; None where there are none: no process group, or a group of one.

    Args:
        sync: What `check_sync` has given.
        site: Where the call comes from.
        name: Finds its name, once.

    Raises:
        SyncError: There is no such process group in this process.
    """
    if sync is False:
        return None
    group = find(sync)
    if group is None:
        return None
    if torch.compiler.is_compiling():
        return Call(group, None)
    if site.name is None and name is not None:
        site.name = name()
    return Call(group, site)


def _members(group: Any) -> str:
    return "ranks " + ", ".join(map(str, dist.get_process_group_ranks(group)))
