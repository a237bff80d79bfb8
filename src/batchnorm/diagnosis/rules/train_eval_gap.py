"""Outputs in evaluation that are not those of training, and what makes the difference."""

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence

from ...records import Finding
from ..distances import distances
from ..evidence import BATCH, INFERENCE, RECALIBRATED, REDRAWN, Evidence, Gap
from ..quantities import effective_batch
from . import nonfinite_statistics, shared_layer, tiny_batch, unlike_batches

FLIPS = 0.05
"""Share of decisions that differ; docs/diagnose_calibration.md."""
RMS = 0.5
"""Standard deviations of the outputs, where there are no decisions."""
WORSE = 1.2
"""Loss in evaluation over loss in training, from which on evaluation is worse."""
NATS = 0.05
"""And so much more, for losses near 0."""

LAG, NOISE, SHIFT = "lag", "batch noise", "distribution shift"
"""The causes. LAG: running statistics are not those of the data. NOISE: those of a batch are of few
values. SHIFT: what they are an average of is not alike, batches, or places of a shared layer."""


@dataclasses.dataclass(frozen=True)
class Parts:
    """What the squared gap between training and evaluation is made of, in variances of outputs."""

    lag: float
    noise: float
    shift: float

    @property
    def cause(self) -> str:
        """The largest part."""
        parts = {LAG: self.lag, NOISE: self.noise, SHIFT: self.shift}
        return max(parts, key=parts.__getitem__)


def check(evidence: Evidence) -> Iterator[Finding]:
    """Find networks that decide otherwise in evaluation than in training."""
    gap, (losses, said) = evidence.gaps.get((BATCH, INFERENCE)), _compared(evidence.losses)
    if gap is None or not (_is_large(gap) or _is_worse(losses)):
        return
    parts = parts_of(evidence)
    if parts.cause != NOISE or _is_worse(losses) or _is_small(evidence):
        yield _finding(evidence, gap, parts, losses, said)


def _is_large(gap: Gap) -> bool:
    by_decisions = gap.flips is not None and gap.flips > FLIPS
    return by_decisions or not gap.rms <= (RMS if gap.flips is None else math.inf)


def _is_small(evidence: Evidence) -> bool:
    """Whether batches are small: noise is in all, and decisions of a new network are a toss."""
    return any(round(1 / share, 6) < tiny_batch.FEW for share in _noisy(evidence).values())


def _is_worse(losses: Mapping[str, float]) -> bool:
    if not losses:
        return False
    return not losses["loss_evaluation"] <= WORSE * losses["loss_training"] + NATS


def parts_of(evidence: Evidence) -> Parts:
    """Split the gap.

    What measuring the statistics anew takes away is lag, unless none are found to be stale. What
    putting the same samples into random batches takes away of the rest is shift, and what is left
    is noise, unless a layer is shared by places that differ.
    """
    square = {pair: _square(gap) for pair, gap in evidence.gaps.items()}
    whole = square.get((BATCH, INFERENCE), 0.0)
    left = square.get((BATCH, RECALIBRATED), whole)
    redrawn = square.get((REDRAWN, RECALIBRATED))
    lag = max(0.0, whole - left)
    if not _lagging(evidence):
        left, lag = max(whole, left), 0.0
    if _shared(evidence) or (redrawn is None and _unlike(evidence)):
        return Parts(lag, 0.0, left)
    redrawn = left if redrawn is None else min(left, redrawn)
    return Parts(lag, redrawn, left - redrawn)


def _square(gap: Gap) -> float:
    return gap.rms**2 if math.isfinite(gap.rms) else math.inf


def _lagging(evidence: Evidence) -> dict[str, float]:
    """Layers with stale statistics, and by how much."""
    found = {}
    for name, layer in evidence.layers.items():
        far, bad = distances(layer), nonfinite_statistics.bad_channels(layer)
        if bad is not None and bool(bad.any()):
            found[name] = math.inf
        elif far is not None and far.is_far:
            found[name] = far.mean + far.log_std
    return found


def _shared(evidence: Evidence) -> dict[str, float]:
    """Layers that are shared by places that differ, and how much these do."""
    found = {f.layer: f for f in shared_layer.check(evidence) if f.severity == "error"}
    return {name or "": f.numbers["log_std_apart"] or 0.0 for name, f in found.items()}


def _unlike(evidence: Evidence) -> dict[str, float]:
    """Layers whose batches differ, and how much."""
    ratios = {name: unlike_batches.ratio(layer) for name, layer in evidence.layers.items()}
    return {n: r for n, r in ratios.items() if r is not None and r > unlike_batches.RATIO}


def _noisy(evidence: Evidence) -> dict[str, float]:
    """All layers, and one over their effective batch."""
    sizes = {name: effective_batch.of(layer) for name, layer in evidence.layers.items()}
    return {name: 1 / size for name, size in sizes.items() if size}


def _where(evidence: Evidence, cause: str) -> str | None:
    """Name the layer with most of the cause."""
    if cause == LAG:
        most = _lagging(evidence)
    else:
        most = _noisy(evidence) if cause == NOISE else _shared(evidence) or _unlike(evidence)
    return max(most, key=most.__getitem__) if most else None


def _finding(
    evidence: Evidence, gap: Gap, parts: Parts, losses: Mapping[str, float], said: str
) -> Finding:
    cause = parts.cause
    decisions = "" if gap.flips is None else f", and {gap.flips:.0%} of the decisions"
    return Finding(
        rule="train_eval_gap",
        layer=_where(evidence, cause),
        severity=_severity(losses),
        what=f"outputs in evaluation differ from those in training by {gap.rms:.2g} of their "
        f"standard deviations{decisions}{said}; the cause is {_MEANT[cause]}",
        why="A model is chosen in one mode and used in the other. What recalibrating takes away is "
        "lag, what random batches take away is distribution shift, the rest is batch noise.",
        remedy=_REMEDIES[cause],
        source="Wu & Johnson 2021 (arXiv:2105.07576), sections 3 to 5",
        numbers={
            "gap": gap.rms,
            "flips": gap.flips,
            LAG: math.sqrt(parts.lag),
            NOISE: math.sqrt(parts.noise),
            SHIFT: math.sqrt(parts.shift),
            **losses,
        },
    )


def _compared(losses: Mapping[str, Sequence[float]]) -> tuple[dict[str, float], str]:
    """Give the mean losses of training and evaluation, and say them."""
    means = {run: sum(values) / len(values) for run, values in losses.items() if values}
    if BATCH not in means or INFERENCE not in means:
        return {}, ""
    said = f" (loss {means[INFERENCE]:.3g} instead of {means[BATCH]:.3g})"
    return {"loss_training": means[BATCH], "loss_evaluation": means[INFERENCE]}, said


def _severity(losses: Mapping[str, float]) -> str:
    """Judge by the losses: evaluation that is no worse than training is worth knowing."""
    if not losses:
        return "warning"
    return "error" if _is_worse(losses) else "information"


_MEANT = {
    LAG: "lag: running statistics that are not those of the data",
    NOISE: "batch noise: statistics of too few values in training",
    SHIFT: "distribution shift: averages over what is not alike",
}

_REMEDIES = {
    LAG: "bn.recalibrate(model, batches)",
    NOISE: "larger batches, sync=True over replicas, renorm=bn.Renorm(...), or\n"
    "model = bn.convert(model, *inputs, to='group').model",
    SHIFT: "DataLoader(..., shuffle=True); statistics of its own for each domain, or each place",
}
