"""What a study runs: its settings, and the configuration of each of its trials."""

import dataclasses
import hashlib
import json
from typing import Any

from ..errors import UsageError
from ..loading import fingerprint, load

MIN_STEPS = 10
"""Fewer have no last tenth to average the loss over."""

CODE_SCHEMA = 1
"""Raised when the meaning of a trial's result changes: older results are then not reused."""

NONE, DEFAULT_INIT, BATCH_NORM = "none", "default init", "batch norm"

GRID, PROBE, GHOST, STABILITY = "grid", "probe", "ghost", "stability"

INPUTS = ("standardize", "minmax", "raw")

USER_ACTIVATION = "model"
"""The one cell of a study of the user's own network."""

DEFAULT_LRS = tuple(round(10 ** (exponent / 2), 4) for exponent in range(-4, 3))
"""Half decades from 0.01 to 10: at the largest neither arm of the default design trains."""


VIRTUAL_BATCH_SIZES = (4, 16)
"""With the whole batch, 64, evenly spaced in the logarithm: the ends decide a slope."""


@dataclasses.dataclass(frozen=True)
class Problem:
    """The network, the data and the training budget that all trials of a study share."""

    inputs: str
    batch_size: int
    steps: int
    stability_steps: int
    depth: int = 6
    """Hidden layers of the default network."""
    width: int = 64
    momentum: float = 0.9
    model: str | None = None
    """The user's factory; None: the default multilayer perceptron."""
    data: str | None = None
    """The user's data; None: scikit-learn's digits."""
    source: str = ""
    """Fingerprint of the user's files."""


@dataclasses.dataclass(frozen=True)
class TrialConfig:
    """One trial: everything its result depends on."""

    problem: Problem
    stage: str
    activation: str
    arm: str
    seed: int
    lr: float
    """For the stage "stability": where the search starts."""
    virtual_batch_size: int | None = None

    @property
    def key(self) -> str:
        """The name of the trial's file: a hash of its canonical configuration and code schema."""
        content = {"schema": CODE_SCHEMA, "trial": dataclasses.asdict(self)}
        canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:24]

    @property
    def label(self) -> str:
        """The trial in words, for messages."""
        chunk = f", virtual batch {self.virtual_batch_size}" if self.virtual_batch_size else ""
        return (
            f"{self.stage}: {self.activation}, {self.arm}, lr {self.lr:g}, seed {self.seed}{chunk}"
        )


@dataclasses.dataclass(frozen=True)
class Design:
    """The settings of a study; the defaults are the study of scikit-learn's digits.

    Args:
        problem: Network, data and budget.
        activations: One cell each.
        lrs: The grid of learning rates, the same for every arm.
        seeds: How many paired seeds; a seed fixes split, data order and the shared weights.
        virtual_batch_sizes: Samples per statistic in the runs that isolate the noise of small
            batches; the gradient's batch stays as it is.
    """

    problem: Problem
    activations: tuple[str, ...] = ("sigmoid", "relu")
    lrs: tuple[float, ...] = DEFAULT_LRS
    seeds: int = 6
    virtual_batch_sizes: tuple[int, ...] = VIRTUAL_BATCH_SIZES

    @property
    def arms(self) -> tuple[str, ...]:
        """The arms; PyTorch's default initialization is one only where we choose another."""
        default = () if self.problem.model else (DEFAULT_INIT,)
        return (NONE, BATCH_NORM, *default)

    def grid(self) -> list[TrialConfig]:
        """The first stage: every learning rate; seeds outermost, the arms of a pair adjacent."""
        return [
            TrialConfig(self.problem, GRID, activation, arm, seed, lr)
            for seed in range(self.seeds)
            for lr in self.lrs
            for activation in self.activations
            for arm in self.arms
        ]

    def identity(self) -> dict[str, Any]:
        """What makes this study another one than the next, as plain data."""
        return {"schema": CODE_SCHEMA, **json.loads(json.dumps(dataclasses.asdict(self)))}


def make_design(
    *,
    model: str | None = None,
    data: str | None = None,
    lrs: tuple[float, ...] | None = None,
    seeds: int = 6,
    inputs: str | None = None,
    steps: int = 200,
    batch_size: int = 64,
    depth: int = 6,
    width: int = 64,
    activations: tuple[str, ...] = ("sigmoid", "relu"),
) -> Design:
    """Build a design from what a user says, checking it.

    Args:
        model: The user's factory, "net.py:make"; None: the default multilayer perceptron.
        data: The user's data, "net.py:data"; None: scikit-learn's digits.
        lrs: Learning rates; None: half decades from 0.01 to 10.
        seeds: Number of paired seeds.
        inputs: "standardize", "minmax" or "raw"; None: "standardize" for digits, "raw" for the
            user's data, which is taken as it comes.
        steps: Training steps of one run.
        batch_size: Samples per step.
        depth: Hidden layers of the default network.
        width: Units per hidden layer of the default network.
        activations: Activations of the default network, of "sigmoid", "relu" and "tanh".

    Returns:
        The design.

    Raises:
        UsageError: A value is out of its range.
    """
    _check_number("--steps", steps, at_least=MIN_STEPS)
    for option, value in {"--seeds": seeds, "--depth": depth, "--width": width}.items():
        _check_number(option, value, at_least=1)
    _check_number("--batch-size", batch_size, at_least=2, why=": batch statistics need as many")
    chosen = tuple(sorted(set(lrs))) if lrs else DEFAULT_LRS
    for lr in chosen:
        if not 0 < lr < float("inf"):
            raise UsageError(f"--lr {lr:g}: a learning rate must be a finite number above 0")
    if inputs not in (None, *INPUTS):
        raise UsageError(f"--inputs {inputs!r}: expected one of {', '.join(INPUTS)}")
    problem = Problem(
        inputs=inputs or ("raw" if data else "standardize"),
        batch_size=batch_size,
        steps=steps,
        stability_steps=max(1, round(steps * 0.4)),
        depth=depth,
        width=width,
        model=model,
        data=data,
        source=source(model, data),
    )
    sizes = tuple(size for size in VIRTUAL_BATCH_SIZES if size < batch_size)
    return Design(
        problem=problem,
        activations=(USER_ACTIVATION,) if model else activations,
        lrs=chosen,
        seeds=seeds,
        virtual_batch_sizes=sizes,
    )


def source(model: str | None, data: str | None) -> str:
    """Fingerprint of the user's files.

    Raises:
        UsageError: A file cannot be imported.
    """
    named = [(model, "--model"), (data, "--data")]
    return "+".join(_fingerprint(spec, option) for spec, option in named if spec)


def _check_number(option: str, value: int, at_least: int, why: str = "") -> None:
    if value < at_least:
        raise UsageError(f"{option} {value}: expected at least {at_least}{why}")


def _fingerprint(spec: str, option: str) -> str:
    load(spec, option)  # refuses what there is nothing to fingerprint of
    return fingerprint(spec)
