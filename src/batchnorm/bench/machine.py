"""What a time was measured on: without this it is only a number."""

import os
import platform
from importlib import metadata
from pathlib import Path

import torch

from ..ops import native

_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30}


def facts() -> dict[str, str]:
    """Describe processor, threads and instruction sets, in words."""
    cache = last_level_cache()
    library = native.library()
    return {
        "processor": processor(),
        "processors": str(os.cpu_count()),
        "threads": str(torch.get_num_threads()),
        "last-level cache": "unknown" if cache is None else f"{cache / 2**20:g} MiB",
        "instruction set, PyTorch": torch.backends.cpu.get_cpu_capability(),
        "instruction set, our kernels": library.instructions if library else "no kernels",
        "system": platform.platform(terse=True),
    }


def versions() -> dict[str, str]:
    """Give the versions of what was measured, and of what it was run with."""
    return {
        "batchnorm": metadata.version("batchnorm"),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def processor() -> str:
    """Name the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


class Others:
    """How much of the processors' time goes to other programs, from now on.

    Args:
        file: Where Linux counts, in ticks since it started.
    """

    def __init__(self, file: Path = Path("/proc/stat")) -> None:
        self._file = file
        self._before = self._read()

    def share(self) -> float | None:
        """Share of all processors' time that was neither idle nor ours; None: not known."""
        now = self._read()
        if self._before is None or now is None:
            return None
        all_time, busy, mine = (b - a for a, b in zip(self._before, now, strict=True))
        return min(max(busy - mine, 0.0) / all_time, 1.0) if all_time > 0 else None

    def _read(self) -> tuple[float, float, float] | None:
        try:
            words = self._file.read_text(encoding="ascii").split("\n", 1)[0].split()
        except OSError:
            return None
        # user nice system idle iowait irq softirq steal; what follows is part of user
        ticks = [int(word) / os.sysconf("SC_CLK_TCK") for word in words[1:9]]
        return sum(ticks), sum(ticks) - ticks[3] - ticks[4], sum(os.times()[:4])


def last_level_cache(folder: Path = _CACHES) -> int | None:
    """Size of the largest cache of the first processor, in bytes; None where it is not told."""
    sizes = []
    for file in folder.glob("index*/size"):
        text = file.read_text(encoding="ascii").strip()
        number, unit = text.rstrip("KMG"), text[-1:]
        if number.isdigit():
            sizes.append(int(number) * _UNITS.get(unit, 1))
    return max(sizes, default=None)
