"""Run one trial and say how it went; whatever happens inside is an outcome."""

import dataclasses
import math
import traceback
from collections.abc import Callable

import torch
from torch import Tensor, nn

from .claims.backward_growth import LATE_STEP, depth_profile
from .claims.dead_units import count_dead, dead_mask
from .claims.distribution_drift import DriftMeter
from .claims.gradient_shift import ShiftMeter
from .claims.stable_learning_rate import largest_stable_rate
from .data import Data, Part, pool, split
from .design import GHOST, GRID, PROBE, STABILITY, TrialConfig
from .models import build
from .outcome import DepthProfile, LargestRate, Outcome
from .training import (
    DIVERGED,
    FAILED,
    OK,
    Evaluation,
    Training,
    evaluate,
    evaluate_all,
    evaluation_steps,
    has_learned,
    train,
)

STEP_RATIO = 1.2
"""Spacing of the evaluations that time a run: less than the smallest effect of interest."""

ALL_PARTS_RATIO = 1.4
"""Spacing of the evaluations on all three parts of the data, which cost more."""

PROBES = 10
"""Drift is measured so many times over a run."""

SHIFTS = 5
"""The gradient shift, at one more backward pass per layer, so many times."""


def run_trial(config: TrialConfig) -> Outcome:
    """Run one trial; an exception becomes a recorded failure with its traceback.

    Errors of the user's set-up are raised in the main process before any trial starts, by `check`.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        data = split(pool(config.problem.data), config.seed, config.problem.inputs)
        return _STAGES[config.stage](config, data)
    except Exception as error:
        return Outcome(
            config,
            FAILED,
            error=f"{type(error).__name__}: {error}",
            traceback=traceback.format_exc(),
        )
    finally:
        torch.set_num_threads(threads)


class _Curve:
    """Evaluates a run at geometrically spaced steps: validation accuracy, or everything."""

    def __init__(self, data: Data, steps: int, everything: bool) -> None:
        self.data = data
        self.steps = set(evaluation_steps(steps, ALL_PARTS_RATIO if everything else STEP_RATIO))
        self.everything = everything
        self.points: list[Evaluation] = []

    def look(self, step: int, model: nn.Module) -> None:
        if step not in self.steps:
            return
        if self.everything:
            self.points.append(evaluate_all(model, self.data, step))
        else:
            _, accuracy = evaluate(model, self.data.val)
            self.points.append(Evaluation(step, None, None, accuracy, None, None))

    def final(self, step: int, model: nn.Module) -> Evaluation:
        """Evaluate everything at the end, unless the last look just has."""
        if self.everything and self.points and self.points[-1].step == step:
            return self.points[-1]
        return evaluate_all(model, self.data, step)


class _Meters:
    """An observer that takes the measurements of the claims."""

    def __init__(self, config: TrialConfig, data: Data) -> None:
        steps = config.problem.steps
        self.curve = _Curve(data, steps, everything=config.stage != GRID)
        self.measures = config.stage == PROBE
        self.probe_steps = {round(i * steps / PROBES) for i in range(PROBES + 1)}
        self.shift_steps = {round(i * steps / SHIFTS) for i in range(SHIFTS)}
        self.late = min(LATE_STEP, steps)
        self.drift, self.shift = DriftMeter(data.train.x), ShiftMeter()
        self.profiles: list[DepthProfile] = []
        self.born_dead: Tensor | None = None
        batch = config.problem.batch_size
        self.batch = Part(data.train.x[:batch], data.train.y[:batch])
        self.whole = data.train.x

    def before(self, step: int, model: nn.Module) -> None:
        self.curve.look(step, model)
        if not self.measures:
            return
        if step == 0:
            self.born_dead = dead_mask(model, self.whole)
        if step in self.probe_steps:
            self.drift.look(step, model)
        if step in (0, self.late):
            profile = depth_profile(step, model, self.batch.x, self.batch.y)
            self.profiles += [profile] if profile else []

    def around(
        self, step: int, model: nn.Module, x: Tensor, y: Tensor
    ) -> Callable[[], None] | None:
        if self.measures and step in self.shift_steps:
            return self.shift.start(step, model, x, y)
        return None


def _train_and_measure(config: TrialConfig, data: Data) -> Outcome:
    model = build(config, data)
    meters = _Meters(config, data)
    problem = config.problem
    ran = train(model, data, problem, config.lr, problem.steps, config.seed, meters)
    outcome = _outcome(config, ran, meters.curve.final(ran.steps, model))
    dead = count_dead(meters.born_dead, model, data.train.x) if meters.measures else None
    return dataclasses.replace(
        outcome,
        curve=tuple(meters.curve.points),
        percentiles=tuple(meters.drift.percentiles),
        drifts=tuple(meters.drift.points),
        shifts=tuple(meters.shift.points),
        profiles=tuple(meters.profiles),
        dead=dead,
    )


def _search_stable_rate(config: TrialConfig, data: Data) -> Outcome:
    steps, seconds = 0, 0.0

    def is_stable(lr: float) -> bool:
        nonlocal steps, seconds
        model = build(config, data)
        ran = train(model, data, config.problem, lr, config.problem.stability_steps, config.seed)
        steps, seconds = steps + ran.steps, seconds + ran.seconds
        if ran.status != OK or not ran.improved:
            return False
        return has_learned(evaluate(model, data.train)[1], data.classes)

    found: LargestRate = largest_stable_rate(is_stable, config.lr)
    return Outcome(config, OK, steps, seconds, largest_rate=found)


def _outcome(config: TrialConfig, ran: Training, final: Evaluation) -> Outcome:
    finite = final.train_loss is not None and math.isfinite(final.train_loss)
    status = ran.status if finite else DIVERGED
    return Outcome(config, status, ran.steps, ran.seconds, final)


_STAGES = {
    GRID: _train_and_measure,
    PROBE: _train_and_measure,
    GHOST: _train_and_measure,
    STABILITY: _search_stable_rate,
}
