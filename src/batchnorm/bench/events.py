"""The clock of a GPU: events between the calls, and a host that is always ahead.

A GPU works while the host goes on: the host's clock would read how long it takes to ask for the
work. So events are queued between the calls, and the GPU notes when it reaches them. If it had to
wait for the host in between, they would measure Python. Therefore a turn is queued as a whole
behind work that keeps the GPU busy meanwhile; where that has ended too early, the turn is queued
again behind more of it. What the host takes is noted beside, phase by phase: a network in which it
is the longer one waits for the host.

A turn starts with a call that is not counted, as on the CPU.
"""

import math
import time
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

import torch

from .timing import BACKWARD, BOTH, FORWARD, Samples, Step, host

TURN = 0.005
"""Seconds that the counted calls of a turn take, about."""

MOST_CALLS = 16
"""More would fill the queue of the GPU, and the host would wait for it."""

TRIES = 3
"""So often a turn is queued, each time behind three times as much; one that waits by itself can
never be queued ahead, and counts as it is."""

_MARGIN = 2.0

_LEAST = 2**29
"""Bytes of a fill: one of some 0.1 ms leaves room in the queue of the GPU for the calls."""


class Mark(Protocol):
    """An event that the GPU passes."""

    def record(self) -> None:
        """Queue it."""

    def query(self) -> bool:
        """Say whether the GPU has passed it."""

    def elapsed_time(self, end_event: Any) -> float:
        """Milliseconds from here to there."""


class Queue(Protocol):
    """What the clock needs of a GPU."""

    def mark(self) -> Mark:
        """Make an event."""

    def fill(self) -> None:
        """Queue some work of always the same length."""

    def synchronize(self) -> None:
        """Wait until everything is done."""


class Gpu:
    """The current stream of a GPU.

    Args:
        device: Which one.
        size: Bytes that are written to keep it busy.
    """

    def __init__(self, device: torch.device, size: int) -> None:
        self._device = device
        self._buffer = torch.empty(max(size, _LEAST), dtype=torch.uint8, device=device)

    def mark(self) -> Mark:
        """Make an event that takes the time."""
        make: Callable[..., Mark] = torch.cuda.Event
        return make(enable_timing=True)

    def fill(self) -> None:
        """Write the buffer."""
        self._buffer.zero_()

    def synchronize(self) -> None:
        """Wait until everything is done."""
        torch.cuda.synchronize(self._device)


class Events:
    """A timer for `interleave`.

    Args:
        gpu: Whose time it takes.
        clock: Gives seconds of the host.
    """

    def __init__(self, gpu: Queue, clock: Callable[[], float] = time.perf_counter) -> None:
        self._gpu, self._clock = gpu, clock
        self._fill_seconds: float | None = None

    def now(self) -> float:
        """Seconds of the host."""
        return self._clock()

    def turn(self, step: Step, samples: Samples) -> None:
        """Call once uncounted, then some times counted."""
        asking, whole = self._once(step)
        calls = min(MOST_CALLS, max(1, math.ceil(TURN / whole)))
        lead = _MARGIN * calls * asking
        for _ in range(TRIES):
            found = [_Call(self._gpu, self._clock) for _ in range(calls)]
            self._keep_busy(lead)
            for call in found:
                call.queue(step)
            if not found[0].has_begun():
                break
            lead *= 3
        self._gpu.synchronize()
        for call in found:
            call.read(samples)

    def _once(self, step: Step) -> tuple[float, float]:
        """Seconds until a call is queued, and until it is done."""
        self._gpu.synchronize()
        start = self._clock()
        output = step.forward()
        if step.backward is not None:
            step.backward(output)
        queued = self._clock()
        del output
        self._gpu.synchronize()
        return queued - start, self._clock() - start

    def _keep_busy(self, seconds: float) -> None:
        if self._fill_seconds is None:
            self._fill_seconds = self._measured_fill()
        for _ in range(max(1, math.ceil(seconds / self._fill_seconds))):
            self._gpu.fill()

    def _measured_fill(self, times: int = 8) -> float:
        """Seconds of one fill, the first of all not counted."""
        self._gpu.fill()
        start, end = self._gpu.mark(), self._gpu.mark()
        start.record()
        for _ in range(times):
            self._gpu.fill()
        end.record()
        self._gpu.synchronize()
        return start.elapsed_time(end) / 1e3 / times


class _Call:
    """One counted call: an event before the forward, one after it, and one after the backward."""

    def __init__(self, gpu: Queue, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._begin, self._middle, self._end = (gpu.mark() for _ in range(3))
        self._host: dict[str, float] = {}

    def queue(self, step: Step) -> None:
        self._begin.record()
        output = self._asked(FORWARD, step.forward)
        self._middle.record()
        if step.backward is not None:
            self._asked(BACKWARD, partial(step.backward, output))
            self._end.record()

    def has_begun(self) -> bool:
        return self._begin.query()

    def read(self, samples: Samples) -> None:
        found = {FORWARD: self._begin.elapsed_time(self._middle) / 1e3}
        if BACKWARD in self._host:
            found[BACKWARD] = self._middle.elapsed_time(self._end) / 1e3
            found[BOTH] = found[FORWARD] + found[BACKWARD]
            self._host[BOTH] = self._host[FORWARD] + self._host[BACKWARD]
        for phase, seconds in found.items():
            samples.setdefault(phase, []).append(seconds)
            samples.setdefault(host(phase), []).append(self._host[phase])

    def _asked(self, phase: str, work: Callable[[], object]) -> object:
        start = self._clock()
        made = work()
        self._host[phase] = self._clock() - start
        return made
