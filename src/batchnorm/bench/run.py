"""Measure every cell of a plan; what has been measured survives whatever stops it."""

import datetime
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from ..records import BENCH_SCHEMA, BenchResult, Timing, to_json, write_text
from . import rows
from .case import Case
from .cell import measure
from .plan import Plan


@dataclass(frozen=True)
class Progress:
    """How far a benchmark is."""

    total: int
    done: int
    case: Case | None
    """The cell that was finished last."""
    rows: tuple[Timing, ...]
    """Of that cell."""


def run(
    plan: Plan,
    out: Path | None = None,
    *,
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> BenchResult:
    """Measure; Ctrl-C ends it, and what has been measured so far is the result.

    Args:
        plan: What to measure, from `make_plan`.
        out: File for the result, written anew after every cell; not touched before. None: none.
        on_progress: Called before the first cell and after every one.

    Returns:
        Every row, and the means over them.
    """
    cases = list(plan.cases())
    with recording(plan, out) as record:
        try:
            on_progress(Progress(len(cases), 0, None, ()))
            for done, case in enumerate(cases, 1):
                cell = measure(case, plan.device, plan.seconds, plan.compile)
                record.add(cell, is_last=done == len(cases))
                on_progress(Progress(len(cases), done, case, tuple(cell)))
        except KeyboardInterrupt:
            pass
        return record.result


class Recording:
    """What has been measured so far; the file is written anew with all that is added.

    Args:
        plan: What is measured.
        out: File for the result; not touched before there are rows. None: none.
    """

    def __init__(self, plan: Plan, out: Path | None) -> None:
        self._plan, self._out = plan, out
        self._start, self._others = time.monotonic(), plan.device.watch()
        self._about = plan.device.facts()
        self._settings = _settings(plan)
        self._rows: list[Timing] = []
        self.result = self._made(partial=True)

    def add(
        self, timings: Sequence[Timing], *, said: Mapping[str, str] | None = None, is_last: bool
    ) -> None:
        """Add rows, and what is to be said beside the settings."""
        self._rows += timings
        self._settings |= said or {}
        self.result = self._made(partial=not is_last)
        if self._out is not None and self._rows:
            write_text(self._out, to_json(self.result))

    def _made(self, partial: bool) -> BenchResult:
        now = datetime.datetime.now(datetime.UTC)
        cache = self._plan.device.cache_bytes()
        return BenchResult(
            schema=BENCH_SCHEMA,
            partial=partial,
            wall_seconds=time.monotonic() - self._start,
            finished=now.isoformat(timespec="seconds"),
            settings=dict(self._settings),
            machine=self._about,
            cache_bytes=cache,
            used_by_others=self._others(),
            versions=self._plan.device.versions(),
            timings=tuple(self._rows),
            means=tuple(rows.means(self._rows, cache)),
        )


@contextmanager
def recording(plan: Plan, out: Path | None) -> Iterator[Recording]:
    """Measure on the device of a plan, with its threads, while the block lasts."""
    with _threads(plan.threads), plan.device.current():
        yield Recording(plan, out)


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    """Use so many threads while the block lasts."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _settings(plan: Plan) -> dict[str, str]:
    return {
        "device": str(plan.device.place),
        "measuring time of one cell": f"{plan.seconds:g} s",
        "dtypes": ", ".join(plan.dtypes),
        "operations": ", ".join(plan.operations),
        "layouts": ", ".join(plan.layouts),
        "torch.compile": "measured" if plan.compile else "not measured (--compile)",
    }
