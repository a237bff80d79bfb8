"""A watch over collectives: before each, all replicas say where they are, and wait for the others.

A collective that one replica does not join hangs, and one that it joins from elsewhere mixes up
numbers; neither says where. Here both become an error. It costs a round through the store of the
process group, some milliseconds a collective, so it is for debugging.
"""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any
from weakref import WeakKeyDictionary

from torch import distributed as dist

from ..errors import OptionError, SyncError

SECONDS = 60.0
"""How long to wait for the others."""

_everywhere: float | None = None
"""Set while a block is open: backward passes run in threads of their own."""

_met: WeakKeyDictionary[Any, int] = WeakKeyDictionary()
"""How often each group has met."""


@contextmanager
def sync_debug(timeout: float = SECONDS) -> Iterator[None]:
    """Turn a hang of synchronized layers into an error that names the layer and who is missing.

    Inside the block every collective of a layer, forward and backward, begins with a meeting: all
    replicas have to come, and to come from the same call of the same layer. All of them need such
    a block, or the environment variable `BATCHNORM_SYNC_DEBUG=1` (`BATCHNORM_SYNC_TIMEOUT` is
    seconds). Compiled graphs are not watched.

    Args:
        timeout: Seconds to wait for the others.

    Raises:
        OptionError: The timeout is not positive.

    Example:
        >>> with sync_debug(timeout=5.0):
        ...     pass
    """
    global _everywhere
    if not timeout > 0:
        raise OptionError(f"expected a positive timeout in seconds, found {timeout!r}")
    before, _everywhere = _everywhere, timeout
    try:
        yield
    finally:
        _everywhere = before


def seconds() -> float | None:
    """How long to wait; None where nobody watches.

    Raises:
        OptionError: BATCHNORM_SYNC_TIMEOUT is not a positive number.
    """
    if _everywhere is not None:
        return _everywhere
    if os.environ.get("BATCHNORM_SYNC_DEBUG", "0") in ("", "0"):
        return None
    given = os.environ.get("BATCHNORM_SYNC_TIMEOUT", str(SECONDS))
    try:
        found = float(given)
    except ValueError:
        found = 0.0
    if not found > 0:
        raise OptionError(f"expected BATCHNORM_SYNC_TIMEOUT to be seconds, found {given!r}")
    return found


def meet(group: Any, where: str) -> None:
    """Wait until all replicas of a group are at the same place.

    Raises:
        SyncError: Somebody is elsewhere, or has not come in time.
    """
    wait = seconds()
    if wait is None:
        return
    number = _met[group] = _met.get(group, 0) + 1
    store = dist.distributed_c10d._get_process_group_store(group)
    ranks = dist.get_process_group_ranks(group)
    me = group.rank()
    keys = [f"batchnorm/{group.group_name}/{number}/{rank}" for rank in range(len(ranks))]
    try:
        store.set(keys[me], where)
        missing = _wait(store, keys, wait)
        places = {r: store.get(k).decode() for r, k in enumerate(keys) if r not in missing}
        if not missing and len(set(places.values())) == 1:
            # All have seen the meeting before this one, or they would not have come.
            store.delete_key(f"batchnorm/{group.group_name}/{number - 1}/{me}")
            return
    except RuntimeError as error:  # torch.distributed's errors, all of them
        raise SyncError(
            f"{where}: this replica, rank {ranks[me]}, cannot reach the store by which replicas "
            f"meet; the process that holds it, usually rank 0, may have ended. It was said: "
            f"{str(error).splitlines()[0]}"
        ) from error
    raise SyncError(_message(number, where, me, ranks, places, missing, wait))


def _wait(store: Any, keys: list[str], wait: float) -> list[int]:
    """Wait for keys; give the numbers of those that do not come."""
    end = time.monotonic() + wait
    try:
        store.wait(keys, timedelta(seconds=wait))
        return []
    except RuntimeError:
        missing = [rank for rank, key in enumerate(keys) if not store.check([key])]
        if missing and time.monotonic() < end:
            raise  # it was not the time
        return missing


def _message(
    number: int,
    where: str,
    me: int,
    ranks: list[int],
    places: dict[int, str],
    missing: list[int],
    wait: float,
) -> str:
    if missing:
        who = ", ".join(str(ranks[rank]) for rank in missing)
        return (
            f"{where}: waited {wait:g} s at synchronization {number} for replica {who} of ranks "
            f"{', '.join(map(str, ranks))}. It has ended, is busy, or has skipped this layer: "
            f"every replica must call every synchronized layer equally often, also with an empty "
            f"batch, and run its backward pass"
        )
    others = "; ".join(
        f"replica {ranks[rank]} is at {place}"
        for rank, place in sorted(places.items())
        if place != places[me]
    )
    return (
        f"{where}: this is where replica {ranks[me]} is at synchronization {number}, but {others}. "
        f"Every replica must call the same layers in the same order, also with an empty batch"
    )
