"""Measure every cell of a plan; what has been measured survives whatever stops it."""

import datetime
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from ..records import BENCH_SCHEMA, BenchResult, Timing, to_json, write_text
from . import machine, rows
from .cell import measure
from .plan import Case, Plan


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
    start = time.monotonic()
    cases = list(plan.cases())
    found: list[Timing] = []
    with _threads(plan.threads):
        about, others = machine.facts(), machine.Others()

        def save() -> BenchResult:
            seconds, is_partial = time.monotonic() - start, done < len(cases)
            result = _result(plan, about, found, is_partial, seconds, others.share())
            if out is not None and found:
                write_text(out, to_json(result))
            return result

        done = 0
        try:
            on_progress(Progress(len(cases), 0, None, ()))
            for case in cases:
                cell = measure(case, plan.seconds, plan.compile)
                found += cell
                done += 1
                result = save()
                on_progress(Progress(len(cases), done, case, tuple(cell)))
        except KeyboardInterrupt:
            result = save()
    return result


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    """Use so many threads while the block lasts."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _result(
    plan: Plan,
    about: dict[str, str],
    found: list[Timing],
    partial: bool,
    seconds: float,
    used_by_others: float | None,
) -> BenchResult:
    cache = machine.last_level_cache()
    now = datetime.datetime.now(datetime.UTC)
    return BenchResult(
        schema=BENCH_SCHEMA,
        partial=partial,
        wall_seconds=seconds,
        finished=now.isoformat(timespec="seconds"),
        settings={
            "measuring time of one cell": f"{plan.seconds:g} s",
            "dtypes": ", ".join(plan.dtypes),
            "operations": ", ".join(plan.operations),
            "layouts": ", ".join(plan.layouts),
            "torch.compile": "measured" if plan.compile else "not measured (--compile)",
        },
        machine=about,
        cache_bytes=cache,
        used_by_others=used_by_others,
        versions=machine.versions(),
        timings=tuple(found),
        means=tuple(rows.means(found, cache)),
    )
