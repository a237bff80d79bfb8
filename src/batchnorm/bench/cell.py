"""Measure one cell: a shape, a layout, a dtype and an operation."""

import math

from ..records import Timing
from . import rows
from .plan import COMPILE, COPY, EAGER, ONEDNN, Case
from .problem import Problem, deviation, make_problem
from .timing import BACKWARD, BOTH, FORWARD, Step, interleave
from .unavailable import Unavailable
from .variants import builders

RIVALS = {EAGER, ONEDNN, COMPILE}
"""If one of them fails, that is a result; if we do, it is an error."""


def measure(case: Case, seconds: float, with_compile: bool = False) -> list[Timing]:
    """Measure one cell: first what everyone computes, then how long it takes those who can."""
    problem = make_problem(case)
    steps: dict[str, Step] = {}
    errors: dict[str, dict[str, float]] = {}
    missing: dict[str, str] = {}
    for name, build in builders(with_compile).items():
        try:
            step = build(problem)
            errors[name] = {} if name == COPY else deviations(problem, step)
            steps[name] = step
        except Unavailable as error:
            missing[name] = str(error)
        except Exception as error:
            if name not in RIVALS:
                raise
            missing[name] = _first_words(error)
    return rows.timings(case, interleave(steps, seconds), errors, missing)


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
