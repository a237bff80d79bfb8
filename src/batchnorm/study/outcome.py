"""What one trial found: plain data, one file of the ledger each."""

import dataclasses

from .design import TrialConfig
from .training import Evaluation


@dataclasses.dataclass(frozen=True)
class Percentiles:
    """Of one typical unit's activation input over the probe set, after `step` updates."""

    step: int
    p15: float
    p50: float
    p85: float


@dataclasses.dataclass(frozen=True)
class DriftPoint:
    """How far activation inputs moved since the previous probe; see `claims.distribution_drift`."""

    step: int
    drift: float
    shape: float


@dataclasses.dataclass(frozen=True)
class ShiftPoint:
    """How far one update of the lower layers moved gradients; see `claims.gradient_shift`."""

    step: int
    relative: float
    cosine: float


@dataclasses.dataclass(frozen=True)
class DepthProfile:
    """Root mean squares by depth, input side first; see `claims.backward_growth`."""

    step: int
    input_rms: tuple[float | None, ...]
    error_rms: tuple[float | None, ...]


@dataclasses.dataclass(frozen=True)
class DeadCount:
    """Units that no sample switches on, at the start and at the end; see `claims.dead_units`."""

    units: int
    born_dead: int
    died: int
    revived: int
    dead: int
    saturated: float | None


@dataclasses.dataclass(frozen=True)
class LargestRate:
    """Result of a bisection; see `claims.stable_learning_rate`."""

    lr: float | None
    bound: str
    runs: int


@dataclasses.dataclass(frozen=True)
class Outcome:
    """The result of one trial."""

    config: TrialConfig
    status: str
    """"ok", "diverged" (an outcome like another) or "failed" (it raised)."""
    steps: int = 0
    seconds: float = 0.0
    """In training steps alone, measurements excluded."""
    final: Evaluation | None = None
    curve: tuple[Evaluation, ...] = ()
    percentiles: tuple[Percentiles, ...] = ()
    drifts: tuple[DriftPoint, ...] = ()
    shifts: tuple[ShiftPoint, ...] = ()
    profiles: tuple[DepthProfile, ...] = ()
    dead: DeadCount | None = None
    largest_rate: LargestRate | None = None
    error: str = ""
    traceback: str = ""
