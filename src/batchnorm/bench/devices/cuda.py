"""A GPU: cuDNN serves where PyTorch has it do so, and events on the GPU take the time."""

import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from ...ops import triton
from .. import launched, machine, variants
from ..case import COMPILE, COPY, EAGER, KERNEL, OURS, Case
from ..events import Events, Gpu
from ..grid import ON_GPU
from ..variants import Builder

_DRIVER = Path("/proc/driver/nvidia/version")

CACHES = 4
"""How many times the last-level cache all inputs that take turns are."""


class Cuda:
    """A GPU that PyTorch can use.

    Args:
        place: Where it lies.
        card: Its properties, as PyTorch tells them.
    """

    grid = ON_GPU
    dtypes = ("float32", "bfloat16", "float16")

    def __init__(self, place: torch.device, card: Any) -> None:
        self.place, self._card = place, card

    def facts(self) -> dict[str, str]:
        """Describe card, driver and host, in words."""
        card = self._card
        return {
            "GPU": card.name,
            "compute capability": f"{card.major}.{card.minor}",
            "multiprocessors": str(card.multi_processor_count),
            "memory": f"{card.total_memory / 2**30:.0f} GiB",
            "last-level cache": f"{card.L2_cache_size / 2**20:g} MiB",
            "driver": driver(),
            "our kernels": triton.reason(self.place.index) or "Triton",
            "processor": machine.processor(),
            "threads": str(torch.get_num_threads()),
        }

    def versions(self) -> dict[str, str]:
        """Give the versions of what was measured, and of what it was run with."""
        return {
            **machine.versions(),
            "CUDA": str(torch.version.cuda or torch.version.hip),
            "cuDNN": str(torch.backends.cudnn.version()),  # type: ignore[no-untyped-call]
            "triton": _version("triton"),
        }

    def cache_bytes(self) -> int:
        """Size of the L2 cache."""
        return int(self._card.L2_cache_size)

    def memory(self) -> float:
        """Bytes of memory of the card."""
        return float(self._card.total_memory)

    def watch(self) -> Callable[[], float | None]:
        """Nobody knows: the processors may be busy with compiling, and the GPU does not tell."""
        return lambda: None

    def sets(self, case: Case) -> int:
        """So many that they are several times the cache."""
        return sets(case, self.cache_bytes())

    def variants(self, with_compile: bool) -> Mapping[str, Builder]:
        """Give what makes the steps, by name, the copy first."""
        found: dict[str, Builder] = {
            COPY: variants.copy,
            OURS: variants.ours,
            KERNEL: launched.step,
            EAGER: variants.eager,
        }
        return {**found, COMPILE: variants.compiled} if with_compile else found

    def timer(self) -> Events:
        """Give the clock of the GPU."""
        return Events(Gpu(self.place, CACHES * self.cache_bytes()))

    def current(self) -> AbstractContextManager[object]:
        """Make it the current device while the block lasts."""
        return torch.cuda.device(self.place)


def sets(case: Case, cache: int) -> int:
    """Say how many sets of inputs it takes until they are `CACHES` times a cache.

    Example:
        >>> from ..case import OPERATIONS
        >>> case = Case((256, 64, 56, 56), "contiguous", "bfloat16", OPERATIONS["bn+relu"])
        >>> sets(case, 50 * 2**20), case.bytes
        (2, 102760448)
    """
    operation = case.operation
    tensors = 1 + (not operation.inference) + operation.residual
    return max(1, math.ceil(CACHES * cache / (tensors * case.bytes)))


def driver(file: Path = _DRIVER) -> str:
    """Give the version of the driver, as it tells it itself."""
    try:
        words = file.read_text(encoding="utf-8").partition("\n")[0].split()
    except OSError:
        return "unknown"
    return next(
        (word for word in words if word.replace(".", "").isdigit() and "." in word), "unknown"
    )


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"
