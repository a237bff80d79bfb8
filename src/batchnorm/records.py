"""Plain data that one part of the library hands to another, and its JSON form.

Frozen dataclasses of numbers and text; the standard library only, so that a saved study can be
rendered where torch is not installed. A number that is not finite is written as null.
"""

import dataclasses
import json
import math
import os
import secrets
import types
import typing
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Change:
    """What a verb did, or with `dry_run=True` would do, to one module of a model."""

    name: str
    """Qualified name of the module."""
    action: str
    """For example "insert BatchNorm1d(64)"."""
    reason: str

    def __str__(self) -> str:
        return f"{self.name or '(model)'}: {self.action} ({self.reason})"


@dataclasses.dataclass(frozen=True)
class Effect:
    """A paired comparison over seeds; positive differences are in favor of batch normalization."""

    label: str
    """Where it was measured: "headline", or a cell such as "sigmoid, at initialization"."""
    seeds: tuple[int, ...]
    differences: tuple[float | None, ...]
    """One per seed, on the scale of the analysis: ln(ratio), or a fraction. None: not measured."""
    mean: float | None
    low: float | None
    """End of the paired 95 % t interval."""
    high: float | None
    p_sign_flip: float | None
    """Exact two-sided sign-flip p value of mean 0."""
    p_holm: float | None
    """Holm-adjusted p value of the decision over the headline tests; None for a cell."""
    effect_size: float | None
    """d_z: mean over standard deviation of the differences."""
    wins: int
    """Seeds whose difference is positive."""
    verdict: str
    """supported, contradicted, no practical effect, inconclusive, not measurable, exploratory."""
    reason: str
    """One sentence: what led to the verdict."""


@dataclasses.dataclass(frozen=True)
class Test:
    """One headline test of a claim, with the cells it averages."""

    __test__ = False  # for pytest: not a test class

    id: str
    """"1a" to "5"."""
    name: str
    quantity: str
    """What one difference is, in words with its formula."""
    scale: str
    """"ratio" (differences are natural logarithms) or "points" (differences are fractions)."""
    threshold: float
    """Smallest effect of interest, on the scale of the analysis."""
    source: str
    headline: Effect
    cells: tuple[Effect, ...]
    depends_on: str | None
    """What the verdict depends on where cells contradict each other, in words."""


@dataclasses.dataclass(frozen=True)
class Claim:
    """One of the five promises, with the tests that judge it."""

    number: int
    title: str
    meaning: str
    """One plain sentence: what the claim says."""
    method: str
    """One plain sentence: how it was measured."""
    limits: str
    """When the claim does not hold, or what the measurement cannot tell."""
    tests: tuple[Test, ...]


@dataclasses.dataclass(frozen=True)
class Run:
    """One training run: a row of the raw table."""

    stage: str
    """"grid", "probe" (a chosen learning rate, with measurements) or "ghost" (virtual batches)."""
    activation: str
    arm: str
    """"none", "default init" or "batch norm"."""
    lr: float
    seed: int
    status: str
    """"ok", "diverged" or "failed"."""
    steps: int
    train_loss: float | None
    train_accuracy: float | None
    val_accuracy: float | None
    test_loss: float | None
    test_accuracy: float | None
    seconds: float
    """Time in training steps, measurements excluded."""
    virtual_batch_size: int | None = None
    """Samples per statistic in a ghost run; None: the whole batch."""


@dataclasses.dataclass(frozen=True)
class Stability:
    """Largest stable learning rate of one arm and seed, by bisection."""

    activation: str
    arm: str
    seed: int
    lr: float | None
    """Largest rate found stable; None where even the smallest tried was not."""
    bound: str
    """"" (bracketed), "at least" (the largest tried was stable) or "below" (none was)."""
    runs: int
    steps: int
    seconds: float


@dataclasses.dataclass(frozen=True)
class CurvePoint:
    """One evaluation of a run at its arm's best learning rate."""

    activation: str
    arm: str
    lr: float
    seed: int
    step: int
    train_loss: float | None
    train_accuracy: float | None
    val_accuracy: float | None
    test_accuracy: float | None


@dataclasses.dataclass(frozen=True)
class Distribution:
    """Percentiles, over the probe set, of the input of one typical unit's activation."""

    activation: str
    arm: str
    seed: int
    step: int
    p15: float
    p50: float
    p85: float


@dataclasses.dataclass(frozen=True)
class Profile:
    """Root mean squares of one activation's input and of the error signal that reaches it."""

    activation: str
    arm: str
    seed: int
    step: int
    """0 (initialization) or 100."""
    layer: int
    """1 is nearest to the input."""
    input_rms: float | None
    error_rms: float | None


@dataclasses.dataclass(frozen=True)
class Drift:
    """How far training moved the inputs of the activations, and the gradients below them."""

    activation: str
    arm: str
    condition: str
    """"best" (each arm at its own best rate) or "matched" (both at the same rate)."""
    seed: int
    step: int
    drift: float | None
    """Earth mover's distance between consecutive probes, in initial standard deviations."""
    drift_shape: float | None
    """The same after standardizing both samples: what changes in shape only."""
    gradient_shift: float | None
    """Relative change of a layer's gradient when the layers below it have been updated."""
    gradient_cosine: float | None
    train_loss: float | None


@dataclasses.dataclass(frozen=True)
class DeadUnits:
    """Units of one run whose activation is never switched on by the whole probe set."""

    activation: str
    arm: str
    condition: str
    seed: int
    units: int
    born_dead: int
    died: int
    revived: int
    saturated: float | None
    """Share of activations whose slope is below 1 % of the steepest, at the end."""


@dataclasses.dataclass(frozen=True)
class Gap:
    """Train minus test accuracy where the training loss first reaches the matched value."""

    activation: str
    arm: str
    condition: str
    """"best", "matched", or "virtual batch"."""
    seed: int
    matched_loss: float | None
    gap: float | None
    final_gap: float | None
    virtual_batch_size: int | None = None


@dataclasses.dataclass(frozen=True)
class Spend:
    """What one arm cost: equal budgets must be visible."""

    activation: str
    arm: str
    runs: int
    steps: int
    seconds: float


@dataclasses.dataclass(frozen=True)
class Failure:
    """A trial that raised; the others went on."""

    trial: str
    label: str
    error: str
    traceback: str


@dataclasses.dataclass(frozen=True)
class Counts:
    """How the trials ended."""

    planned: int
    done: int
    diverged: int
    failed: int


@dataclasses.dataclass(frozen=True)
class StudyResult:
    """Everything a study found, and everything its report is drawn from."""

    schema: int
    title: str
    partial: bool
    """The study was stopped before its last trial."""
    counts: Counts
    wall_seconds: float
    finished: str
    """UTC time at which the study ended, ISO 8601."""
    settings: dict[str, str]
    """What was run, in words, in the order of display."""
    chosen_lr: dict[str, str]
    """Per cell and arm, in words: the learning rates that validation accuracy chose."""
    versions: dict[str, str]
    notes: tuple[str, ...]
    """What a reader must know before reading the verdicts."""
    claims: tuple[Claim, ...]
    runs: tuple[Run, ...]
    stability: tuple[Stability, ...]
    curves: tuple[CurvePoint, ...]
    distributions: tuple[Distribution, ...]
    profiles: tuple[Profile, ...]
    drifts: tuple[Drift, ...]
    dead_units: tuple[DeadUnits, ...]
    gaps: tuple[Gap, ...]
    spend: tuple[Spend, ...]
    failures: tuple[Failure, ...]
    missing_shards: tuple[str, ...] = ()
    """ "i/n" of the shards that have trials to run before there can be a whole result."""


@dataclasses.dataclass(frozen=True)
class Timing:
    """How long one implementation takes for one phase of one operation: a row of a benchmark."""

    shape: tuple[int, ...]
    """Of the input, (N, C, ...)."""
    layout: str
    """"contiguous" or "channels-last"."""
    dtype: str
    megabytes: float
    """Size of the input, in 10⁶ bytes."""
    operation: str
    """"bn", "bn+relu", "bn+add+relu" or "inference"."""
    phase: str
    """"forward", "backward", "both", or "copy" for a copy of the input."""
    variant: str
    """"ours", "kernel", "eager", "onednn", "compile" or "copy"."""
    ms: float | None
    """Median over the repetitions, in milliseconds; None: not measured."""
    low_ms: float | None
    """First quartile."""
    high_ms: float | None
    """Third quartile."""
    best_ms: float | None
    """The fastest call; where it is far below the median, the machine was busy."""
    repetitions: int
    floor_ms: float | None
    """What the least traffic this phase needs costs at the speed of the copy."""
    over_floor: float | None
    """ms / floor_ms."""
    over_eager: float | None
    """Time of PyTorch eager / ms: how many times faster."""
    error: float | None
    """Largest deviation from float64, over the root mean square of the float64 values; the worst
    of the phase's results."""
    missing: str
    """Why it was not measured; empty where it was."""


@dataclasses.dataclass(frozen=True)
class GeometricMean:
    """A ratio of times, averaged over the shapes of a benchmark."""

    dtype: str
    operation: str
    phase: str
    variant: str
    against: str
    """Another variant (the ratio says how many times faster), or "floor" (how many times over)."""
    group: str
    """"all", or the sizes it is of: "over the cache", "1 MB to the cache", "under 1 MB"."""
    cells: int
    """How many shapes and layouts."""
    ratio: float
    worst: float
    """The smallest ratio, or against the floor the largest."""
    worst_at: str
    """Its shape and layout, in words."""


@dataclasses.dataclass(frozen=True)
class BenchResult:
    """Everything one benchmark measured, and everything its page is drawn from."""

    schema: int
    partial: bool
    """It was stopped before its last shape."""
    wall_seconds: float
    finished: str
    """UTC time at which it ended, ISO 8601."""
    settings: dict[str, str]
    machine: dict[str, str]
    """Processor, threads, instruction sets, caches."""
    cache_bytes: int | None
    """Size of the last-level cache; None: not known."""
    used_by_others: float | None
    """Share of the processors' time that other programs used meanwhile; None: not known."""
    versions: dict[str, str]
    timings: tuple[Timing, ...]
    means: tuple[GeometricMean, ...]


SCHEMA = 1
"""Of `StudyResult`."""

BENCH_SCHEMA = 1
"""Of `BenchResult`."""


def to_json(record: Any) -> str:
    """Write a record as JSON with sorted structure, null for what is not finite.

    Example:
        >>> to_json(Change("0", "insert BatchNorm1d(3)", "before ReLU"))
        '{"name":"0","action":"insert BatchNorm1d(3)","reason":"before ReLU"}'
    """
    return json.dumps(_finite(dataclasses.asdict(record)), allow_nan=False, separators=(",", ":"))


def from_json(kind: type[T], text: str) -> T:
    """Read a record of the given kind back from its JSON.

    Raises:
        ValueError: The text is not JSON, or lacks a field, or holds one of another kind.

    Example:
        >>> change = Change("0", "insert BatchNorm1d(3)", "before ReLU")
        >>> from_json(Change, to_json(change)) == change
        True
    """
    return typing.cast(T, _build(kind, json.loads(text), kind.__name__))


def write_text(path: Path, text: str) -> None:
    """Write a file under a temporary name, then rename it: a reader never sees half of it."""
    # Two machines that share a folder may have processes of one number.
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


def _build(kind: Any, value: Any, where: str) -> Any:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if dataclasses.is_dataclass(kind):
        return _build_record(kind, value, where)
    if origin is types.UnionType:
        inner = next(argument for argument in arguments if argument is not types.NoneType)
        return None if value is None else _build(inner, value, where)
    if origin is tuple and isinstance(value, list):
        return tuple(_build(arguments[0], item, f"{where}[{i}]") for i, item in enumerate(value))
    if origin is dict and isinstance(value, dict):
        return {key: _build(arguments[1], item, f"{where}.{key}") for key, item in value.items()}
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(kind, type) and type(value) is kind:
        return value
    raise ValueError(f"{where}: expected {kind}, found {type(value).__name__}")


def _build_record(kind: Any, value: Any, where: str) -> Any:
    if not isinstance(value, dict):
        raise ValueError(f"{where}: expected an object, found {type(value).__name__}")
    hints = typing.get_type_hints(kind)
    fields = {field.name: field for field in dataclasses.fields(kind)}
    missing = [n for n, f in fields.items() if n not in value and f.default is dataclasses.MISSING]
    if missing or set(value) - set(fields):
        unknown = sorted(set(value) - set(fields))
        raise ValueError(f"{where}: missing fields {missing}, unknown fields {unknown}")
    return kind(**{n: _build(hints[n], item, f"{where}.{n}") for n, item in value.items()})
