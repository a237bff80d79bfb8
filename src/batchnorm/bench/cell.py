"""Measure one cell: a shape, a layout, a dtype and an operation."""

import math
from dataclasses import dataclass

from ..records import Timing
from . import rows
from .case import COMPILE, COPY, EAGER, ONEDNN, Case
from .devices import Device
from .problem import Problem, deviation, make_problem
from .timing import BACKWARD, BOTH, FORWARD, Step, interleave
from .unavailable import Unavailable

RIVALS = {EAGER, ONEDNN, COMPILE}
"""If one of them fails, that is a result; if we do, it is an error."""


@dataclass(frozen=True)
class Prepared:
    """Everyone at work on one cell, after a first call."""

    steps: dict[str, Step]
    errors: dict[str, dict[str, float]]
    """Deviation from float64, per name and phase."""
    missing: dict[str, str]
    """Why somebody is not among the steps."""


def measure(case: Case, device: Device, seconds: float, with_compile: bool = False) -> list[Timing]:
    """Measure one cell: first what everyone computes, then how long it takes those who can."""
    found = prepare(case, device, with_compile)
    samples = interleave(found.steps, seconds, device.timer())
    by = {name: step.by for name, step in found.steps.items()}
    return rows.timings(case, samples, found.errors, found.missing, by, device.cache_bytes())


def prepare(case: Case, device: Device, with_compile: bool = False) -> Prepared:
    """Let everyone compute it once."""
    problem = make_problem(case, device.place, device.sets(case))
    found = Prepared({}, {}, {})
    for name, build in device.variants(with_compile).items():
        try:
            step = build(problem)
            found.errors[name] = {} if name == COPY else deviations(problem, step)
            found.steps[name] = step
        except Unavailable as error:
            found.missing[name] = str(error)
        except Exception as error:
            if name not in RIVALS:
                raise
            found.missing[name] = _first_words(error)
    return found


def deviations(problem: Problem, step: Step) -> dict[str, float]:
    """Run once; give the deviation from float64 of each phase, not a number where it is that."""
    output = step.forward()
    forward = deviation([output], [problem.output])
    if step.backward is None:
        return {FORWARD: forward}
    backward = deviation(step.backward(output), problem.gradients)
    both = math.nan if math.isnan(forward + backward) else max(forward, backward)
    return {FORWARD: forward, BACKWARD: backward, BOTH: both}


def _first_words(error: Exception, length: int = 160) -> str:
    """Say what was raised, in one line."""
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return text if len(text) <= length else f"{text[:length]}..."
