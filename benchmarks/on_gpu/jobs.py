"""What is done in one run on a GPU, the most important first, within a time that is given."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from batchnorm.records import Timing

CHECK, CELL, NETWORK = "check", "cell", "network"

GUESS = {CHECK: 60.0, CELL: 10.0, NETWORK: 120.0}
"""Seconds of a job, compiling included, until one of its kind has been timed."""

MOST_FAILURES = 3
"""After so many in a row the GPU itself is taken to be lost."""


@dataclass(frozen=True)
class Done:
    """What a job gives: rows, and what is to be said beside them."""

    rows: list[Timing] = field(default_factory=list)
    said: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Job:
    """Something to be done that a run can end before."""

    kind: str
    name: str
    run: Callable[[], Done]


@dataclass(frozen=True)
class Outcome:
    """A job that was done, failed, or was left out for want of time."""

    job: Job
    done: Done | None = None
    error: str = ""

    @property
    def left_out(self) -> bool:
        """It was not begun."""
        return self.done is None and not self.error


def work_off(
    jobs: Iterable[Job], seconds: float, clock: Callable[[], float] = time.monotonic
) -> Iterator[Outcome]:
    """Do the jobs that will end in time, in their order.

    A job is expected to take as long as the longest of its kind did. One that fails is told, and
    the others go on.

    Args:
        jobs: What to do.
        seconds: Time for all of it.
        clock: Gives seconds.

    Yields:
        What became of each.
    """
    end, expected = clock() + seconds, dict(GUESS)
    longest: dict[str, float] = {}
    failures = 0
    for job in jobs:
        if clock() + expected[job.kind] > end or failures >= MOST_FAILURES:
            yield Outcome(job)
            continue
        start = clock()
        try:
            outcome = Outcome(job, job.run())
            failures = 0
        except Exception as error:
            outcome = Outcome(job, error=f"{type(error).__name__}: {error}")
            failures += 1
        longest[job.kind] = max(longest.get(job.kind, 0.0), clock() - start)
        expected[job.kind] = longest[job.kind]
        yield outcome
