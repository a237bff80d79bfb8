"""The list that a verb returns when it is only asked what it would do."""

from ..records import Change


class Changes(list[Change]):
    """Changes in the order of the network; printed, one per line.

    Example:
        >>> print(Changes([Change("0", "drop bias", "the normalization after it has its own")]))
        0: drop bias (the normalization after it has its own)
    """

    def __str__(self) -> str:
        return "\n".join(str(change) for change in self)
