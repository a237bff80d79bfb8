"""A clock that treats everyone alike: one call after the other, in turns, medians.

In each round every implementation has one turn, and the order of turns rotates by one from round to
round, so that a slow moment of the machine hits all of them and nobody always follows the same one.
A turn starts with a call that is not counted: it brings the implementation's own inputs and code
into the caches, whatever ran before. The calls after it are counted one by one. A call is a forward
and a backward; the clock is read in between, so the phases come from the same calls. What a call
returns is freed after the clock has stopped.
"""

import itertools
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

FORWARD, BACKWARD, BOTH = "forward", "backward", "both"

MIN_ROUNDS = 5
TURN = 0.002
"""Seconds: a turn ends with the first counted call after them, so small tensors get many calls."""


@dataclass(frozen=True)
class Step:
    """One implementation at work on its inputs."""

    forward: Callable[[], Any]
    backward: Callable[[Any], Any] | None = None
    """Takes what the forward returns; None for an operation without gradients."""
    by: str = ""
    """Whose kernels do the work, where that is not told by the name."""


class Spread(NamedTuple):
    """Median, quartiles and smallest, in the unit of the samples."""

    median: float
    low: float
    high: float
    best: float
    calls: int


Samples = dict[str, list[float]]
"""Seconds of every counted call, per phase; where the work is done elsewhere, those of the host
too."""


def host(phase: str) -> str:
    """Name the samples of what the host takes to ask for the work of a phase."""
    return f"{phase}, host"


class Timer(Protocol):
    """A clock, and how a turn is timed by it."""

    def now(self) -> float:
        """Give seconds."""

    def turn(self, step: Step, samples: Samples) -> None:
        """Call a step, once uncounted and then counted, and add the seconds of the latter."""


def interleave(steps: Mapping[str, Step], seconds: float, timer: Timer) -> dict[str, Samples]:
    """Time implementations in turns, for at least so many seconds and `MIN_ROUNDS` rounds.

    Args:
        steps: What to time, by name.
        seconds: Time to spend, all together.
        timer: Times the turns.

    Returns:
        Per name and phase, the seconds of every counted call.
    """
    names = list(steps)
    samples: dict[str, Samples] = {name: {} for name in names}
    start, rounds = timer.now(), 0
    while names and (rounds < MIN_ROUNDS or timer.now() - start < seconds):
        first = rounds % len(names)
        for name in names[first:] + names[:first]:
            timer.turn(steps[name], samples[name])
        rounds += 1
    return samples


def spread(samples: Sequence[float]) -> Spread:
    """Summarize samples.

    Example:
        >>> spread([4.0, 1.0, 3.0, 2.0, 5.0])
        Spread(median=3.0, low=2.0, high=4.0, best=1.0, calls=5)
    """
    if len(samples) == 1:
        (only,) = samples
        return Spread(only, only, only, only, 1)
    low, median, high = statistics.quantiles(samples, n=4, method="inclusive")
    return Spread(median, low, high, min(samples), len(samples))


def rotating(steps: Sequence[Step]) -> Step:
    """Make one step of several that do the same with other inputs: every call is the next one's."""
    if len(steps) == 1:
        return steps[0]
    turns = itertools.cycle(steps)
    at_work = steps[0]

    def forward() -> Any:
        nonlocal at_work
        at_work = next(turns)
        return at_work.forward()

    def backward(output: Any) -> Any:
        assert at_work.backward is not None
        return at_work.backward(output)

    return Step(forward, None if at_work.backward is None else backward, at_work.by)


class Stopwatch:
    """The clock of the host, for work that is done when a call returns.

    Args:
        clock: Gives seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock

    def now(self) -> float:
        """Give seconds."""
        return self._clock()

    def turn(self, step: Step, samples: Samples) -> None:
        """Call once uncounted, then for `TURN`, or once."""
        self._call(step, {})
        end = self._clock() + TURN
        while True:
            self._call(step, samples)
            if self._clock() >= end:
                return

    def _call(self, step: Step, samples: Samples) -> None:
        start = self._clock()
        output = step.forward()
        middle = self._clock()
        samples.setdefault(FORWARD, []).append(middle - start)
        if step.backward is None:
            return
        middle = self._clock()
        gradients = step.backward(output)
        end = self._clock()
        del gradients
        samples.setdefault(BACKWARD, []).append(end - middle)
        samples.setdefault(BOTH, []).append(samples[FORWARD][-1] + end - middle)
