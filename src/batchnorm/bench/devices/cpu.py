"""The processors: compared with oneDNN, and timed by the clock of the host."""

import math
import os
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext

import torch

from .. import kernel, machine, onednn, variants
from ..case import COMPILE, COPY, EAGER, KERNEL, ONEDNN, OURS, Case
from ..grid import ON_CPU
from ..timing import Stopwatch
from ..variants import Builder


class Cpu:
    """The processors of this machine."""

    place = torch.device("cpu")
    grid = ON_CPU
    dtypes = ("float32", "bfloat16")

    def facts(self) -> dict[str, str]:
        """Describe processor, threads and instruction sets, in words."""
        return machine.facts()

    def versions(self) -> dict[str, str]:
        """Give the versions of what was measured, and of what it was run with."""
        return machine.versions()

    def cache_bytes(self) -> int | None:
        """Size of the last-level cache; None: not known."""
        return machine.last_level_cache()

    def memory(self) -> float:
        """Bytes of memory; infinite where they are not known."""
        try:
            return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        except (AttributeError, OSError, ValueError):
            return math.inf

    def watch(self) -> Callable[[], float | None]:
        """Watch from now on which share of the processors' time other programs use."""
        return machine.Others().share

    def sets(self, case: Case) -> int:
        """One: small tensors are measured warm, and say so."""
        return 1

    def variants(self, with_compile: bool) -> Mapping[str, Builder]:
        """Give what makes the steps, by name, the copy first."""
        found: dict[str, Builder] = {
            COPY: variants.copy,
            OURS: variants.ours,
            KERNEL: kernel.step,
            EAGER: variants.eager,
            ONEDNN: onednn.step,
        }
        return {**found, COMPILE: variants.compiled} if with_compile else found

    def timer(self) -> Stopwatch:
        """Give the clock of the host."""
        return Stopwatch()

    def current(self) -> AbstractContextManager[object]:
        """Change nothing: it is always the current one."""
        return nullcontext()
