"""Objects that replicas tell each other between computations, and word of one that has failed."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar

from torch import distributed as dist

from ..errors import SyncError
from . import watch
from .group import Sync, check_sync, find

T = TypeVar("T")


class _Word(NamedTuple):
    """What one replica says at a meeting: a value, or what has gone wrong."""

    value: Any
    failed: str | None


class Meeting:
    """Where replicas tell each other objects; alone, one hears oneself.

    All come to every `gather`, in the same order. One that fails in between says so at the next.

    Args:
        group: The process group; None where there are no others.
        what: What they do, for messages.
    """

    def __init__(self, group: Any, what: str) -> None:
        self.group, self.what = group, what
        self.size: int = 1 if group is None else group.size()
        self.rank: int = 0 if group is None else group.rank()
        self.number = 0
        self.can_tell = group is not None
        """Whether the others wait at the next `gather`, and nowhere else."""

    def gather(self, value: T) -> list[T]:
        """Give the values of all replicas, by rank.

        They are pickled. Equal lists on all replicas, so all can decide alike.

        Raises:
            SyncError: A replica has failed, or cannot be reached.
        """
        if self.group is None:
            return [value]
        words = self._exchange(_Word(value, None))
        for rank, word in enumerate(words):
            if word.failed is not None:
                self.can_tell = False  # they have heard it, too
                ranks = dist.get_process_group_ranks(self.group)
                raise SyncError(
                    f"{self.what}: replica {ranks[rank]} of ranks {', '.join(map(str, ranks))} "
                    f"has failed, so this one, {ranks[self.rank]}, has stopped as well; its "
                    f"error was: {word.failed}"
                )
        return [word.value for word in words]

    def tell(self, error: BaseException) -> None:
        """Let the others know, if they wait for this replica, that it does not come."""
        if self.can_tell:
            self._exchange(_Word(None, f"{type(error).__name__}: {error}"))
            self.can_tell = False

    @contextmanager
    def elsewhere(self) -> Iterator[None]:
        """Say nothing in the block, nor after an exception in it: the others wait elsewhere."""
        before, self.can_tell = self.can_tell, False
        yield
        self.can_tell = before

    def close(self) -> None:
        """Stop: nobody waits any more."""
        self.can_tell = False

    def _exchange(self, word: _Word) -> list[_Word]:
        self.number += 1
        where = f"{self.what}, meeting {self.number}"
        words: list[Any] = [None] * self.size
        with self.elsewhere():
            watch.meet(self.group, where)
            try:
                dist.all_gather_object(words, word, group=self.group)
            except RuntimeError as error:
                raise SyncError(
                    f"{where}: cannot talk to the other replicas. One of them may have ended; "
                    f"all have to call it. It was said: {str(error).splitlines()[0]}"
                ) from error
        return words


@contextmanager
def meeting(sync: Sync, what: str) -> Iterator[Meeting]:
    """Meet other replicas in the block; if it fails here, they hear of it where they wait.

    Args:
        sync: False, True or a process group.
        what: What they do, for messages.

    Raises:
        OptionError: The option has no valid value.
        SyncError: See `Meeting.gather`.
    """
    held = check_sync(sync)
    here = Meeting(find(held), what)
    try:
        yield here
    except Exception as error:  # after Ctrl-C nobody wants to wait for others
        try:
            here.tell(error)
        except SyncError as unheard:
            error.add_note(str(unheard))
        raise
