"""What a study found."""

import dataclasses

SCHEMA = 1
"""Of `StudyResult`."""


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
