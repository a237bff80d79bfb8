"""A part of a study, for machines that have nothing in common but a folder."""

import dataclasses
import re
from collections.abc import Iterable, Sequence
from typing import TypeVar

from ..errors import UsageError
from .design import TrialConfig

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Shard:
    """Every `count`-th trial of a plan, from the `index`-th on.

    Args:
        index: From 1 to `count`.
        count: How many shards there are.

    Raises:
        UsageError: There is no such shard.

    Example:
        >>> shard = Shard.parse("2/3")
        >>> str(shard), shard.share("abcdefgh")
        ('2/3', ['b', 'e', 'h'])
    """

    index: int
    count: int

    def __post_init__(self) -> None:
        if not 1 <= self.index <= self.count:
            raise UsageError(f"shard {self}: expected i/n with i from 1 to n")

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """Read "i/n".

        Raises:
            UsageError: The text says something else.
        """
        found = re.fullmatch(r"(\d+)/(\d+)", text.strip())
        if not found:
            raise UsageError(f"shard {text!r}: expected i/n, for example 1/8")
        return cls(int(found[1]), int(found[2]))

    def share(self, plan: Sequence[T]) -> list[T]:
        """What of a stage's plan is this shard's."""
        return list(plan[self.index - 1 :: self.count])

    def owners(self, plan: Sequence[TrialConfig], missing: Iterable[TrialConfig]) -> set[int]:
        """Indices of the shards whose share some of the missing trials are."""
        place = {config: i for i, config in enumerate(plan)}
        return {place[config] % self.count + 1 for config in missing}

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"
