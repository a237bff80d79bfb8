"""Which replicas: what `sync=` can be, and how it survives copies and pickles."""

from typing import Any, TypeAlias

import torch
from torch import distributed as dist

from ..errors import OptionError, SyncError

Sync: TypeAlias = Any
"""False, True for all processes, or a `torch.distributed.ProcessGroup`."""

ALONE = 1
"""A group of so many replicas is none."""


class Held:
    """A process group inside a layer: copies share it, and a pickle remembers its name.

    Args:
        name: The group's.
        ranks: Its members, for messages.
        group: The group; None after unpickling, until it is found by its name.
    """

    def __init__(self, name: str, ranks: list[int], group: Any = None) -> None:
        self.name, self.ranks, self.group = name, ranks, group

    def __deepcopy__(self, memo: dict[int, Any]) -> "Held":
        """Share: a process group cannot be copied."""
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        """Leave the group behind: it belongs to this process."""
        return Held, (self.name, self.ranks)

    def __eq__(self, other: object) -> bool:
        """Compare by name and members."""
        return isinstance(other, Held) and (self.name, self.ranks) == (other.name, other.ranks)

    def __hash__(self) -> int:
        """Hash by name."""
        return hash(self.name)

    def __repr__(self) -> str:
        """Show the members."""
        return f"<process group of ranks {', '.join(map(str, self.ranks))}>"

    def find(self) -> Any:
        """Give the group.

        Raises:
            SyncError: It was pickled, and in this process there is none of its name and members.
        """
        if self.group is None:
            group = _by_name(self.name)
            if group is None or dist.get_process_group_ranks(group) != self.ranks:
                raise SyncError(
                    f"expected the process group {self.name!r} of ranks {self.ranks}, with which "
                    f"this layer was pickled; there is none in this process. Set layer.sync to "
                    f"True, to a process group of this process, or to False"
                )
            self.group = group
        return self.group


def check_sync(sync: Sync) -> bool | Held:
    """Make of an option what a layer keeps.

    Raises:
        OptionError: It is neither a bool nor a process group that this process is a member of.
    """
    if sync is None or isinstance(sync, bool):
        return bool(sync)
    if isinstance(sync, Held):
        return sync
    available = dist.is_available()
    if available and isinstance(sync, dist.ProcessGroup):
        return Held(sync.group_name, dist.get_process_group_ranks(sync), sync)
    if available and sync is dist.GroupMember.NON_GROUP_MEMBER:
        raise OptionError(
            "expected sync to be a process group that this process is a member of; "
            "give every process the group it belongs to, see torch.distributed.new_group"
        )
    raise OptionError(
        f"expected sync to be a bool or a torch.distributed.ProcessGroup, found {sync!r}"
    )


def same_sync(held: bool | Held) -> Sync:
    """Give back what the user gave: a bool or a group."""
    return held.group or held if isinstance(held, Held) else held


def find(sync: bool | Held) -> Any:
    """Give the process group; None where there is nobody to talk to."""
    if sync is False or not dist.is_available() or not dist.is_initialized():
        return None
    group: Any = dist.group.WORLD if sync is True else sync.find()
    return None if group.size() <= ALONE else group


def _by_name(name: str) -> Any:
    c10d: Any = torch.distributed.distributed_c10d
    try:
        return c10d._resolve_process_group(name)
    except (RuntimeError, ValueError, LookupError):
        return None
