"""What the command `fold` has done: text and numbers only, printable, and JSON."""

from dataclasses import dataclass

from ...records import Change
from .fold import LEAVE


@dataclass(frozen=True)
class Folding:
    """All normalizations of a model: those that are folded, then those that are left.

    Example:
        >>> print(Folding((Change("1", "fold into Conv2d '0'", "nothing else reads it"),), "a.pt"))
        1: fold into Conv2d '0' (nothing else reads it)
        1 of 1 normalizations folded
        written: a.pt
    """

    changes: tuple[Change, ...]
    written: str | None
    """The file; None after a dry run, or where nothing could be folded."""

    @property
    def folded(self) -> int:
        """How many are gone, or would be."""
        return sum(change.action != LEAVE for change in self.changes)

    def __str__(self) -> str:
        lines = [*map(str, self.changes)]
        lines.append(f"{self.folded} of {len(self.changes)} normalizations folded")
        if self.written is None:
            lines.append("nothing was written")
        else:
            lines.append(f"written: {self.written}")
        return "\n".join(lines)
