"""What a benchmark has to know of a device; everything else is the same on all of them."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Protocol

import torch

from ..case import Case
from ..grid import Grid
from ..timing import Timer
from ..variants import Builder


class Device(Protocol):
    """A device that is there; `find` gives it."""

    @property
    def place(self) -> torch.device:
        """Where the tensors lie."""

    @property
    def grid(self) -> Grid:
        """What is measured where nobody says."""

    @property
    def dtypes(self) -> tuple[str, ...]:
        """What our kernels there take."""

    def facts(self) -> dict[str, str]:
        """Describe it, in words."""

    def versions(self) -> dict[str, str]:
        """Give the versions of what was measured, and of what it was run with."""

    def cache_bytes(self) -> int | None:
        """Size of the last-level cache; None: not known."""

    def memory(self) -> float:
        """Bytes of memory; infinite where they are not known."""

    def watch(self) -> Callable[[], float | None]:
        """Watch from now on which share of it other programs use; None: nobody knows."""

    def sets(self, case: Case) -> int:
        """Say how many sets of inputs are to take turns, so that none is cached from before."""

    def variants(self, with_compile: bool) -> Mapping[str, Builder]:
        """Give what makes the steps of everyone who is measured, by name, the copy first."""

    def timer(self) -> Timer:
        """Give the clock."""

    def current(self) -> AbstractContextManager[object]:
        """Make it the current device while the block lasts."""
