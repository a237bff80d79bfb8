"""What a diagnosis found."""

import dataclasses
from collections.abc import Iterable

DIAGNOSIS_SCHEMA = 1
"""Of `DiagnosisResult`."""

SEVERITIES = ("error", "warning", "information")
"""Of findings, the gravest first."""


@dataclasses.dataclass(frozen=True)
class Finding:
    """One thing that is wrong, or worth knowing, with its evidence and its remedy."""

    rule: str
    """Name of the rule, such as "stale_statistics"."""
    layer: str | None
    """Qualified name of the layer; None where it is the whole network."""
    severity: str
    """"error" (results are wrong), "warning" (they may well be) or "information"."""
    what: str
    """What was found, in one sentence."""
    why: str
    """Why it matters, in one or two sentences."""
    remedy: str
    """What to do: code, or a command of ours."""
    source: str
    """Where it is published or documented."""
    numbers: dict[str, float | None] = dataclasses.field(default_factory=dict)
    """What was measured, and what it was held against."""
    page: str = ""
    """Where the documentation treats the rule: always that of `rule`, also for older records."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "page", f"docs/findings.md#{self.rule}")

    @property
    def where(self) -> str:
        """The layer, in words."""
        return "the network" if self.layer is None else self.layer or "(model)"

    def __str__(self) -> str:
        head = f"{self.severity}: {self.where}: {self.what}"
        remedy = self.remedy.replace("\n", "\n        ")
        return f"{head}\n    why: {self.why}\n    do: {remedy}\n    see: {self.page}"


def grouped(findings: Iterable[Finding]) -> list[tuple[Finding, ...]]:
    """Put findings of one rule and severity together, each group where its first one stands."""
    by_rule: dict[tuple[str, str], list[Finding]] = {}
    for finding in findings:
        by_rule.setdefault((finding.severity, finding.rule), []).append(finding)
    return [tuple(group) for group in by_rule.values()]


@dataclasses.dataclass(frozen=True)
class Measure:
    """A quantity: what a number is, and from where on it is drawn in color."""

    name: str
    """Its key in the tables of numbers, such as "mean_error"."""
    title: str
    """A few words, for the head of a column."""
    meaning: str
    """One sentence with the formula."""
    source: str
    unit: str
    """"sd", "log", "share", "samples", ...; empty for a pure number."""
    calm: float | None = None
    """A value that is drawn without color; None where there is no good and bad."""
    alarm: float | None = None
    """A value that is drawn in full color; below `calm` where less is worse."""
    logarithmic: bool = False
    """Whether colors run with the logarithm."""


@dataclasses.dataclass(frozen=True)
class Histogram:
    """How the outputs of a layer are distributed, in training and in inference."""

    low: float
    high: float
    """Ends of the bins; what lies beyond is counted in the first and the last one."""
    training: tuple[float, ...]
    """Shares of the values, one per bin."""
    inference: tuple[float, ...]
    recalibrated: tuple[float, ...]
    """Empty where nothing could be recalibrated."""


@dataclasses.dataclass(frozen=True)
class LayerResult:
    """One layer."""

    name: str
    """Qualified name."""
    kind: str
    """Name of its class."""
    channels: int
    mode: str
    """"learning", "frozen" or "evaluation" (by hand, where others train)."""
    calls: float
    """In one forward of the model."""
    quantities: dict[str, float | None]
    """By the name of their `Measure`; null where not measured, or not finite."""
    mean_errors: tuple[float | None, ...]
    """(running − recalibrated mean) / standard deviation of every channel; empty without both."""
    log_std_errors: tuple[float | None, ...]
    """ln(running / recalibrated standard deviation) of every channel."""
    histogram: Histogram | None


@dataclasses.dataclass(frozen=True)
class DiagnosisResult:
    """Everything a diagnosis found, and everything its page is drawn from."""

    schema: int
    model: str
    """Name of the class."""
    verdict: str
    """One sentence."""
    findings: tuple[Finding, ...]
    """The gravest first."""
    layers: tuple[LayerResult, ...]
    """In the order in which they are called; those that are not called come last."""
    measures: tuple[Measure, ...]
    """Of layers, in the order of display."""
    quantities: dict[str, float | None]
    """Of the whole network, by the name of their measure."""
    network_measures: tuple[Measure, ...]
    seconds: float
    finished: str
    """UTC time at which it ended, ISO 8601."""
    settings: dict[str, str]
    """What was run, in words, in the order of display."""
    versions: dict[str, str]
    notes: tuple[str, ...]
    """What could not be measured, and why."""
