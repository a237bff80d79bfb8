"""Studies to render: a realistic one, one stopped early, and one with nothing in it."""

import dataclasses
import math
import random

from batchnorm.records import (
    SCHEMA,
    Claim,
    Counts,
    CurvePoint,
    DeadUnits,
    Distribution,
    Drift,
    Failure,
    Gap,
    Profile,
    Run,
    Spend,
    Stability,
    StudyResult,
)

from .sample_claims import ACTIVATIONS, SEEDS, claims, effect

ARMS = ("none", "default init", "batch norm")
RATES = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
STEPS = (0, 1, 2, 5, 10, 20, 40, 80, 120, 160, 200, 250, 300, 400, 500, 600)
LAYERS = 10
ATTACK = "<script>alert(1)</script>"


def is_stable(activation, arm, rate, seed):
    """Say whether a run of the grid survives."""
    limit = {"none": 0.2, "default init": 0.06, "batch norm": 3.0}[arm]
    return rate < limit * (3 if activation == "sigmoid" else 1) * (1 + 0.1 * (seed % 3))


def run(activation, arm, rate, seed, stage="grid", size=None):
    """Make up one run."""
    draw = random.Random(f"{activation}{arm}{rate}{seed}{stage}{size}")
    best = {"none": 0.03, "default init": 0.01, "batch norm": 0.3}[arm]
    ok = is_stable(activation, arm, rate, seed)
    accuracy = 0.1 + 0.87 * math.exp(-0.25 * math.log10(rate / best) ** 2) - draw.random() * 0.03
    if arm == "default init" and activation == "sigmoid":
        accuracy = 0.1 + draw.random() * 0.02
    return Run(
        stage,
        activation,
        arm,
        rate,
        seed,
        "ok" if ok else "diverged",
        600 if ok else 37,
        round(1.9 * (1 - accuracy) + 0.01, 5) if ok else None,
        round(min(1.0, accuracy + 0.03), 5) if ok else None,
        round(accuracy, 5) if ok else None,
        round(2.1 * (1 - accuracy) + 0.02, 5) if ok else None,
        round(accuracy - 0.005, 5) if ok else None,
        round(1.5 + draw.random(), 4),
        size,
    )


def runs():
    """Make up the grid, the runs at the chosen rates and those with virtual batches."""
    cells_ = [(a, arm) for a in ACTIVATIONS for arm in ARMS]
    grid = [run(a, arm, rate, s) for a, arm in cells_ for rate in RATES for s in SEEDS]
    probe = [run(a, arm, 0.03, s, "probe") for a, arm in cells_ for s in SEEDS]
    ghost = [
        run(a, "batch norm", 0.3, s, "ghost", n)
        for a in ACTIVATIONS
        for n in (4, 8, 16, 32, None)
        for s in SEEDS
    ]
    return tuple(grid + probe + ghost)


def stability():
    """Make up the bisections."""
    base = {"none": 0.18, "default init": 0.05, "batch norm": 1.4}
    found = []
    for activation in ACTIVATIONS:
        for arm in ARMS:
            for seed in SEEDS:
                dead = arm == "default init" and activation == "sigmoid" and seed == 0
                rate = base[arm] * 10 ** (
                    random.Random(f"{activation}{arm}{seed}").randint(-1, 1) / 8
                )
                found.append(
                    Stability(
                        activation,
                        arm,
                        seed,
                        None if dead else round(rate, 5),
                        "below"
                        if dead
                        else "at least"
                        if arm == "batch norm" and seed == 1
                        else "",
                        7,
                        2100,
                        6.5,
                    )
                )
    return tuple(found)


def curves():
    """Make up validation accuracy over training."""
    speed = {"none": 90, "default init": 240, "batch norm": 25}
    points = []
    for activation in ACTIVATIONS:
        for arm in ARMS:
            for seed in SEEDS:
                draw = random.Random(f"curve{activation}{arm}{seed}")
                for step in STEPS:
                    value = 0.1 + 0.87 * (1 - math.exp(-step / speed[arm])) + draw.gauss(0, 0.008)
                    points.append(
                        CurvePoint(
                            activation, arm, 0.03, seed, step, round(2.3 - 2.2 * value, 5),
                            round(value + 0.01, 5), round(value, 5), round(value - 0.01, 5),
                        )
                    )  # fmt: skip
    return tuple(points)


def distributions():
    """Make up the percentiles of one unit's input."""
    points = []
    for activation in ACTIVATIONS:
        for arm in ARMS:
            for seed in SEEDS:
                draw, middle, width = random.Random(f"dist{activation}{arm}{seed}"), 0.0, 1.0
                for step in STEPS:
                    if arm != "batch norm":
                        middle += draw.gauss(0.12, 0.25) * math.log1p(step) / 3
                        width *= 1 + abs(draw.gauss(0, 0.06))
                    else:
                        middle += draw.gauss(0, 0.03)
                    low, high = middle - width, middle + width
                    points.append(
                        Distribution(
                            activation,
                            arm,
                            seed,
                            step,
                            round(low, 4),
                            round(middle, 4),
                            round(high, 4),
                        )
                    )
    return tuple(points)


def profiles():
    """Make up the sizes of signals by depth; the error of a deep sigmoid net vanishes."""
    back = {"sigmoid": {"none": 0.2, "default init": 0.05, "batch norm": 0.97},
            "relu": {"none": 0.98, "default init": 0.4, "batch norm": 1.2}}  # fmt: skip
    points = []
    for activation in ACTIVATIONS:
        for arm in ARMS:
            for seed in SEEDS:
                draw = random.Random(f"profile{activation}{arm}{seed}")
                for step in (0, 100):
                    for layer in range(1, LAYERS + 1):
                        factor = back[activation][arm] ** (1 if step == 0 else 0.5)
                        error = 0.01 * factor ** (LAYERS - layer) * math.exp(draw.gauss(0, 0.15))
                        size = 1.0 if arm == "batch norm" else 0.9**layer
                        if arm == "default init" and activation == "sigmoid" and layer == 1:
                            error = 0.0
                        points.append(
                            Profile(activation, arm, seed, step, layer,
                                    size * math.exp(draw.gauss(0, 0.05)), error)
                        )  # fmt: skip
    return tuple(points)


def drifts():
    """Make up drift and gradient shift."""
    points = []
    for activation in ACTIVATIONS:
        for arm in ("none", "batch norm"):
            for condition in ("best", "matched"):
                for seed in SEEDS:
                    draw = random.Random(f"drift{activation}{arm}{condition}{seed}")
                    for step in STEPS[1:]:
                        is_bn = arm == "batch norm"
                        size = (
                            (0.05 if is_bn else 0.4)
                            * math.exp(draw.gauss(0, 0.3))
                            / (1 + step / 200)
                        )
                        shift = (0.55 if is_bn else 0.3) * math.exp(draw.gauss(0, 0.2))
                        points.append(
                            Drift(
                                activation, arm, condition, seed, step, size, size / 2, shift,
                                min(1.0, 1 - shift / 3), round(2.3 * math.exp(-step / 100), 5),
                            )
                        )  # fmt: skip
    return tuple(points)


def dead_units():
    """Make up the counts of dead units."""
    found = []
    for activation in ACTIVATIONS:
        for arm in ARMS:
            for condition in ("best", "matched"):
                for seed in SEEDS:
                    draw = random.Random(f"dead{activation}{arm}{condition}{seed}")
                    is_safe = arm == "batch norm" or activation == "sigmoid"
                    born = 0 if is_safe else draw.randint(0, 25)
                    died = 0 if is_safe else draw.randint(10, 60)
                    saturated = draw.random() * (0.02 if arm == "batch norm" else 0.3)
                    found.append(
                        DeadUnits(
                            activation, arm, condition, seed, 1000, born, died, 0 if is_safe else 2,
                            saturated if activation == "sigmoid" else None,
                        )
                    )  # fmt: skip
    return tuple(found)


def gaps():
    """Make up generalization gaps, one of them never reached."""
    found = []
    for activation in ACTIVATIONS:
        for arm in ARMS:
            for condition in ("best", "matched"):
                for seed in SEEDS:
                    draw = random.Random(f"gap{activation}{arm}{condition}{seed}")
                    gap = (0.02 if arm == "batch norm" else 0.028) + draw.gauss(0, 0.006)
                    is_lost = arm == "none" and seed == 2
                    found.append(
                        Gap(
                            activation,
                            arm,
                            condition,
                            seed,
                            0.05,
                            None if is_lost else gap,
                            gap + 0.004,
                        )
                    )
        for size in (4, 8, 16, 32, None):
            for seed in SEEDS:
                draw = random.Random(f"ghost{activation}{size}{seed}")
                gap = 0.012 + 0.004 * math.log2((size or 64) / 4) / 2 + draw.gauss(0, 0.003)
                found.append(
                    Gap(activation, "batch norm", "virtual batch", seed, 0.05, gap, gap, size)
                )
    return tuple(found)


def study(**other) -> StudyResult:
    """Build a realistic result: two activations, three arms, seven rates, six seeds."""
    fields = {
        "schema": SCHEMA,
        "title": "Does batch normalization keep its promises on the digits?",
        "partial": False,
        "counts": Counts(636, 636, 61, 1),
        "wall_seconds": 252.4,
        "finished": "2026-11-22T16:34:00Z",
        "settings": {
            "network": "MLP, 10 hidden layers of 100 units",
            "data": "scikit-learn digits: 1,078 training, 359 validation, 360 test samples",
            "optimizer": "SGD, momentum 0.9, batch 64, 600 steps",
            "initialization": "He normal (relu), Xavier normal (sigmoid)",
            "seeds": "6",
        },
        "chosen_lr": {
            f"{a}, {arm}": rate
            for a in ACTIVATIONS
            for arm, rate in (("without BN", "0.03"), ("with BN", "0.3"))
        },
        "versions": {"batchnorm": "0.1.0", "torch": "2.13.0", "python": "3.11.7"},
        "notes": (
            "All verdicts hold for this network, this data and this budget only.",
            "Learning rates were chosen on validation data with other seeds than those reported.",
        ),
        "claims": claims(),
        "runs": runs(),
        "stability": stability(),
        "curves": curves(),
        "distributions": distributions(),
        "profiles": profiles(),
        "drifts": drifts(),
        "dead_units": dead_units(),
        "gaps": gaps(),
        "spend": tuple(
            Spend(a, arm, 42 + 42, 37800, 130.5) for a in ACTIVATIONS for arm in ARMS
        ),
        "failures": (
            Failure(
                "3f2a", "relu, default init, 0.3, seed 4", "RuntimeError: out of memory",
                'Traceback (most recent call last):\n  File "trial.py", line 10, in run\n'
                "    loss.backward()\nRuntimeError: out of memory",
            ),
        ),
    }  # fmt: skip
    return StudyResult(**{**fields, **other})


def unmeasured(claim: Claim) -> Claim:
    """Take every number out of a claim."""
    nothing = effect(values=(None,) * 6, verdict="not measurable", wins=0)
    tests = tuple(
        dataclasses.replace(test, headline=nothing, cells=(), depends_on=None)
        for test in claim.tests
    )
    return dataclasses.replace(claim, tests=tests)


EVIDENCE = (
    "runs", "stability", "curves", "distributions", "profiles", "drifts", "dead_units", "gaps",
    "spend", "failures",
)  # fmt: skip


def empty() -> StudyResult:
    """Build the result of a study that was stopped before its first trial."""
    return study(
        partial=True,
        counts=Counts(636, 0, 0, 0),
        settings={},
        chosen_lr={},
        versions={},
        notes=(),
        claims=tuple(map(unmeasured, claims())),
        **dict.fromkeys(EVIDENCE, ()),
    )


def one_cell() -> StudyResult:
    """Build the result for a user's own network: one cell, two arms, three seeds, stopped early."""
    whole = study()
    kept = {
        name: tuple(
            dataclasses.replace(record, activation="model")
            for record in getattr(whole, name)
            if record.activation == "relu"
            and record.arm != "default init"
            and getattr(record, "seed", 0) < 3
        )
        for name in EVIDENCE
        if name != "failures"
    }
    return study(
        partial=True, counts=Counts(180, 61, 4, 0), claims=tuple(map(exploratory, claims())), **kept
    )


def exploratory(claim: Claim) -> Claim:
    """Leave three seeds and no verdict to a claim."""
    tests = tuple(
        dataclasses.replace(
            test,
            headline=effect(values=(*test.headline.differences[:2], 0.5), verdict="exploratory"),
            cells=(),
            depends_on=None,
        )
        for test in claim.tests
    )
    return dataclasses.replace(claim, tests=tests)


def hostile() -> StudyResult:
    """Build a result whose every piece of text tries to be markup or a formula."""

    def spoil(value, name=""):
        if dataclasses.is_dataclass(value):
            fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
            return type(value)(**{n: spoil(v, n) for n, v in fields.items()})
        if isinstance(value, tuple):
            return tuple(spoil(item, name) for item in value)
        if isinstance(value, dict):
            return {f"{k}{ATTACK}": f"{v}{ATTACK}" for k, v in value.items()}
        kept = ("arm", "condition", "stage", "status", "scale", "verdict", "bound", "id")
        if not isinstance(value, str) or name in kept:
            return value
        return f"={value}\"'{ATTACK}</script><!--"

    return spoil(one_cell())
