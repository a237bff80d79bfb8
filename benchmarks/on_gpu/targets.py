"""What the kernels for GPUs are to reach, and what the rows of a run say. Needs no torch."""

import statistics
from collections.abc import Iterable
from dataclasses import dataclass

from batchnorm.records import BenchResult, Timing

OPERATIONS = ("bn+relu", "bn+add+relu")
LARGE = 100.0
"""Megabytes."""


@dataclass(frozen=True)
class Target:
    """A number to reach, and what was found of whole steps, forward and backward."""

    name: str
    dtype: str
    wanted: float
    found: float
    """Geometric mean over the cells."""
    cells: int
    worst: float
    worst_at: str

    @property
    def is_met(self) -> bool:
        """The mean reaches what was wanted."""
        return self.found >= self.wanted


COLUMNS = ("target", "dtype", "wanted", "found", "worst", "where", "cells", "met")


def targets(result: BenchResult) -> list[Target]:
    """Compare the rows with the three targets, dtype by dtype; without rows there is none."""
    steps = [r for r in result.timings if r.phase == "both" and r.operation in OPERATIONS]
    found = []
    for dtype in dict.fromkeys(row.dtype for row in steps):
        at = {_cell(r, r.variant): r for r in steps if r.dtype == dtype and r.ms is not None}
        ours = [row for row in at.values() if row.variant == "ours"]
        compiled = [(row, at.get(_cell(row, "compile"))) for row in ours]
        ratios = {
            ("times faster than PyTorch eager", 1.5): [(r.over_eager, r) for r in ours],
            ("times faster than torch.compile", 1.0): [
                (other.ms / row.ms, row) for row, other in compiled if other
            ],
            (f"share of the copy's bandwidth, inputs over {LARGE:.0f} MB", 0.75): [
                (row.copy_share, row) for row in ours if row.megabytes > LARGE
            ],
        }
        for (name, wanted), members in ratios.items():
            found += _target(name, dtype, wanted, members)
    return found


def cells(target: Target) -> list[str]:
    """Write a target as the cells of a table with `COLUMNS`."""
    numbers = [f"{value:.2f}" for value in (target.wanted, target.found, target.worst)]
    met = "yes" if target.is_met else "no"
    return [target.name, target.dtype, *numbers, target.worst_at, str(target.cells), met]


def _target(
    name: str, dtype: str, wanted: float, members: Iterable[tuple[float | None, Timing]]
) -> list[Target]:
    known = [(value, row) for value, row in members if value is not None]
    if not known:
        return []
    worst, row = min(known, key=lambda member: member[0])
    mean = statistics.geometric_mean(value for value, _ in known)
    where = f"{row.operation} {'×'.join(map(str, row.shape))} {row.layout}"
    return [Target(name, dtype, wanted, mean, len(known), worst, where)]


def _cell(row: Timing, variant: str) -> tuple[object, ...]:
    return row.shape, row.layout, row.operation, variant
