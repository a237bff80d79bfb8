"""What a benchmark measured."""

import dataclasses

BENCH_SCHEMA = 1
"""Of `BenchResult`."""


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
    """"bn", "bn+relu", "bn+add+relu", "inference"; "resnet50" is a training step of a network."""
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
    copy_share: float | None = None
    """Share of the copy's bandwidth at which it moves what has to be moved: where the input does
    not fit the cache, what is read twice counts twice."""
    host_ms: float | None = None
    """What the host takes to ask a GPU for it, the median; None: it does it itself."""
    by: str = ""
    """Whose kernels serve PyTorch: "cuDNN"; empty: its own."""


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
    """Processor, threads, instruction sets, caches; "GPU" where one was measured."""
    cache_bytes: int | None
    """Size of the last-level cache; None: not known."""
    used_by_others: float | None
    """Share of the processors' time that other programs used meanwhile; None: not known."""
    versions: dict[str, str]
    timings: tuple[Timing, ...]
    means: tuple[GeometricMean, ...]
