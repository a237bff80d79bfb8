"""The latest forward passes of a layer, so that recomputing one has what it had."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")

REMEMBERED = 64
"""Forward passes a layer keeps; a few vectors (C,) each."""


@dataclass(eq=False)
class Entry(Generic[K, V]):
    """One forward pass."""

    key: K
    """By what it is known."""
    value: V
    recalled: bool = False


class Latest(Generic[K, V]):
    """What forward passes had, by what they are known.

    Of equal ones the latest is recomputed first, as torch runs backward passes.
    """

    def __init__(self) -> None:
        self.latest: deque[Entry[K, V]] = deque(maxlen=REMEMBERED)
        self.forgotten = 0

    def record(self, key: K, value: V) -> None:
        """Keep what a forward has had."""
        self.forgotten += len(self.latest) == REMEMBERED
        self.latest.append(Entry(key, value))

    def find(self, *is_same: Callable[[K], bool]) -> V | None:
        """Find what a forward has had; None where there was none.

        Args:
            *is_same: Whether a key is that of the forward; the second is asked only where the first
                knows none.
        """
        every = ([entry for entry in self.latest if test(entry.key)] for test in is_same)
        same = next((entries for entries in every if entries), [])
        if not same:
            return None
        if all(entry.recalled for entry in same):  # another backward pass
            for entry in same:
                entry.recalled = False
        entry = next(entry for entry in reversed(same) if not entry.recalled)
        entry.recalled = True
        return entry.value
