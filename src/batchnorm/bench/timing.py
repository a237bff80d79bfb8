"""A clock that treats everyone alike: one call after the other, in turns, medians.

In each round every implementation has one turn, and the order of turns rotates by one from round to
round, so that a slow moment of the machine hits all of them and nobody always follows the same one.
A turn starts with a call that is not counted: it brings the implementation's own inputs and code
into the caches, whatever ran before. The calls after it are counted one by one. A call is a forward
and a backward; the clock is read in between, so the phases come from the same calls. What a call
returns is freed after the clock has stopped.
"""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

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


class Spread(NamedTuple):
    """Median, quartiles and smallest, in the unit of the samples."""

    median: float
    low: float
    high: float
    best: float
    calls: int


Samples = dict[str, list[float]]
"""Seconds of every counted call, per phase."""


def interleave(
    steps: Mapping[str, Step], seconds: float, clock: Callable[[], float] = time.perf_counter
) -> dict[str, Samples]:
    """Time implementations in turns, for at least so many seconds and `MIN_ROUNDS` rounds.

    Args:
        steps: What to time, by name.
        seconds: Time to spend, all together.
        clock: Gives seconds.

    Returns:
        Per name and phase, the seconds of every counted call.
    """
    names = list(steps)
    samples: dict[str, Samples] = {name: {} for name in names}
    start, rounds = clock(), 0
    while names and (rounds < MIN_ROUNDS or clock() - start < seconds):
        first = rounds % len(names)
        for name in names[first:] + names[:first]:
            _turn(steps[name], samples[name], clock)
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


def _turn(step: Step, samples: Samples, clock: Callable[[], float]) -> None:
    _call(step, {}, clock)
    end = clock() + TURN
    while True:
        _call(step, samples, clock)
        if clock() >= end:
            return


def _call(step: Step, samples: Samples, clock: Callable[[], float]) -> None:
    start = clock()
    output = step.forward()
    middle = clock()
    samples.setdefault(FORWARD, []).append(middle - start)
    if step.backward is None:
        return
    middle = clock()
    gradients = step.backward(output)
    end = clock()
    del gradients
    samples.setdefault(BACKWARD, []).append(end - middle)
    samples.setdefault(BOTH, []).append(samples[FORWARD][-1] + end - middle)
