"""One cell of a benchmark: a shape, a layout, a dtype and an operation."""

import math
from dataclasses import dataclass, field

Shape = tuple[int, ...]

CONTIGUOUS, CHANNELS_LAST = "contiguous", "channels-last"
LAYOUTS = (CONTIGUOUS, CHANNELS_LAST)
DTYPES = {"float32": 4, "bfloat16": 2, "float16": 2}
"""With their sizes in bytes."""

COPY, OURS, KERNEL, EAGER, ONEDNN, COMPILE = "copy", "ours", "kernel", "eager", "onednn", "compile"
"""Who is measured."""


@dataclass(frozen=True)
class Operation:
    """What is computed of the input, and how much memory traffic that needs at least."""

    name: str
    relu: bool
    residual: bool
    inference: bool
    passes: dict[str, int] = field(hash=False)
    """Per phase, how many tensors like the input must be read or written."""
    twice: dict[str, int] = field(hash=False)
    """The same where what is read for the statistics, or for the sums of the backward pass, does
    not fit the cache, and is read once more."""


OPERATIONS = {
    operation.name: operation
    for operation in (
        Operation(
            "bn",
            relu=False,
            residual=False,
            inference=False,
            passes={"forward": 2, "backward": 3, "both": 5},
            twice={"forward": 3, "backward": 5, "both": 8},
        ),
        Operation(
            "bn+relu",
            relu=True,
            residual=False,
            inference=False,
            passes={"forward": 2, "backward": 3, "both": 5},
            twice={"forward": 3, "backward": 5, "both": 8},
        ),
        Operation(
            "bn+add+relu",
            relu=True,
            residual=True,
            inference=False,
            passes={"forward": 3, "backward": 4, "both": 7},
            twice={"forward": 4, "backward": 6, "both": 10},
        ),
        Operation(
            "inference",
            relu=True,
            residual=False,
            inference=True,
            passes={"forward": 2},
            twice={"forward": 2},
        ),
    )
}


@dataclass(frozen=True)
class Case:
    """One cell of a benchmark: every implementation is measured on it."""

    shape: Shape
    layout: str
    dtype: str
    operation: Operation

    @property
    def bytes(self) -> int:
        """Size of the input."""
        return math.prod(self.shape) * DTYPES[self.dtype]

    def __str__(self) -> str:
        size = "×".join(map(str, self.shape))
        return f"{self.operation.name} {size} {self.layout} {self.dtype}"
