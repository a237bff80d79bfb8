"""Where the thresholds of `bn.diagnose` lie between healthy networks and planted mistakes.

    python benchmarks/diagnose_calibration.py --seeds 6 --out docs/diagnose_calibration.md

Healthy are the networks of `examples/healthy.py`, freshly recalibrated and as training leaves them,
and the twins of `examples/faults.py` and `examples/ported.py`: the same networks without the
mistake.
"""

import argparse
import dataclasses
import math
import statistics
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import torch

import batchnorm as bn
from batchnorm.diagnosis import distances as beyond
from batchnorm.diagnosis import readings, trials
from batchnorm.diagnosis.evidence import BATCH, INFERENCE, Evidence, LayerEvidence
from batchnorm.diagnosis.quantities import effective_batch, exchanged, misread, undivided
from batchnorm.diagnosis.rules import (
    dead_channels,
    diverged_replicas,
    dropout_before,
    eps_too_large,
    mixed_domains,
    tiny_batch,
    train_eval_gap,
    unlike_batches,
)

sys.path.insert(0, str(Path(__file__).parent.parent / "examples"))

import faults
import healthy
import ported  # noqa: F401  # puts its own into the list of faults

Values = Iterable[float | None]


@dataclasses.dataclass(frozen=True)
class Quantity:
    """A number that a rule judges by.

    Args:
        name: What it is.
        rule: The rule.
        threshold: Where it begins to find.
        of: Computes it, for one layer, or for the network.
        less_is_worse: Whether the rule looks below the threshold.
    """

    name: str
    rule: str
    threshold: float
    of: Callable[[Evidence, LayerEvidence], float | None]
    less_is_worse: bool = False

    def values(self, evidence: Evidence, layers: Iterable[str]) -> Iterator[float]:
        """Compute it for layers, where it was measured."""
        for name in layers:
            value = self.of(evidence, evidence.layers[name])
            if value is not None and not math.isnan(value):
                yield value

    def worst(self, values: Iterable[float]) -> float:
        """Of several, the one nearest to a finding."""
        return min(values) if self.less_is_worse else max(values)


def _distance(key: str) -> Callable[[Evidence, LayerEvidence], float | None]:
    def of(evidence: Evidence, layer: LayerEvidence) -> float | None:
        far = beyond.distances(layer)
        return None if far is None else getattr(far, key)

    return of


def _groups(evidence: Evidence, layer: LayerEvidence) -> float | None:
    if len(layer.runs[BATCH].batch) < mixed_domains.FEWEST or layer.calls > 1:
        return None
    return mixed_domains.along_largest(layer.runs[BATCH])[1]


def _dead(evidence: Evidence, layer: LayerEvidence) -> float | None:
    off = dead_channels.dead(layer)
    return None if off is None else float(off.double().mean())


def _apart(evidence: Evidence, layer: LayerEvidence) -> float | None:
    found = [diverged_replicas.apart(layer, *replica) for replica in layer.replicas]
    return max((max(far.mean, far.log_std) for far in found), default=None)


def _flips(evidence: Evidence, layer: LayerEvidence) -> float | None:
    gap = evidence.gaps.get((BATCH, INFERENCE))
    return None if gap is None else gap.flips


def _loss(evidence: Evidence, layer: LayerEvidence) -> float | None:
    training, evaluation = (statistics.mean(evidence.losses[r]) for r in (BATCH, INFERENCE))
    return evaluation - train_eval_gap.WORSE * training


def _gain(evidence: Evidence, layer: LayerEvidence) -> float | None:
    trial = evidence.trials.get(trials.EXCHANGED)
    return None if trial is None else trial.found - trials.WORSE * trial.tried


QUANTITIES = (
    Quantity(
        "running mean, sd beyond noise", "stale_statistics", beyond.MEAN_ERROR, _distance("mean")
    ),
    Quantity(
        "running deviation, log beyond noise",
        "stale_statistics",
        beyond.LOG_STD_ERROR,
        _distance("log_std"),
    ),
    Quantity(
        "no variance, times nearer",
        "misread_variance",
        readings.BETTER,
        lambda _, layer: misread.of(layer),
    ),
    Quantity(
        "mean and variance exchanged, times nearer",
        "exchanged_statistics",
        readings.BETTER,
        lambda _, layer: exchanged.of(layer),
    ),
    Quantity(
        "undivided sum, times nearer",
        "undivided_statistics",
        readings.BETTER,
        lambda _, layer: undivided.of(layer),
    ),
    Quantity(
        f"loss as found − {trials.WORSE} × with weight and bias exchanged",
        "exchanged_affine",
        trials.NATS,
        _gain,
    ),
    Quantity(
        "effective batch, values",
        "tiny_batch",
        tiny_batch.FEW,
        lambda _, layer: effective_batch.of(layer),
        less_is_worse=True,
    ),
    Quantity(
        "variance between batches, times chance",
        "unlike_batches",
        unlike_batches.RATIO,
        lambda _, layer: unlike_batches.ratio(layer),
    ),
    Quantity("share between two groups", "mixed_domains", mixed_domains.SHARE, _groups),
    Quantity(
        "variance of a typical channel, eps",
        "eps_too_large",
        eps_too_large.TIMES,
        lambda _, layer: eps_too_large.typical_ratio(layer),
        less_is_worse=True,
    ),
    Quantity("dead channels, share", "dead_channels", dead_channels.MANY, _dead),
    Quantity(
        "dropout's shift, log",
        "dropout_before",
        dropout_before.SHIFT,
        lambda _, layer: dropout_before.shift(layer),
    ),
    Quantity("replicas apart, sd or log", "diverged_replicas", diverged_replicas.FAR, _apart),
    Quantity("decisions that differ, share", "train_eval_gap", train_eval_gap.FLIPS, _flips),
    Quantity(
        f"loss in evaluation − {train_eval_gap.WORSE} × training",
        "train_eval_gap",
        train_eval_gap.NATS,
        _loss,
    ),
)


@dataclasses.dataclass
class Group:
    """Healthy networks of one kind."""

    networks: int = 0
    layers: int = 0
    alarms: list[str] = dataclasses.field(default_factory=list)
    values: dict[str, list[float]] = dataclasses.field(default_factory=dict)


def diagnosed(case: healthy.Case) -> bn.diagnosis.Diagnosis:
    """Diagnose a case with all that is known of it."""
    return bn.diagnose(
        case.model,
        case.batches,
        healthy.cross_entropy,
        optimizer=case.optimizer,
        replicas=case.replicas,
        progress=False,
    )


def measure(group: Group, name: str, case: healthy.Case) -> None:
    """Add a healthy network to its group."""
    diagnosis = diagnosed(case)
    assert diagnosis.evidence is not None
    group.networks += 1
    group.layers += len(diagnosis.evidence.layers)
    group.alarms += [
        f"{name}: {f.rule} at {f.layer}" for f in diagnosis.findings if f.severity != "information"
    ]
    for quantity in QUANTITIES:
        found = quantity.values(diagnosis.evidence, diagnosis.evidence.layers)
        group.values.setdefault(quantity.name, []).extend(found)


def healthy_groups(seeds: int) -> dict[str, Group]:
    """Measure every healthy network with every seed."""
    groups = {"freshly recalibrated": Group(), "as training left it": Group(), "twins": Group()}
    for seed in range(seeds):
        for name, make in healthy.NETWORKS.items():
            measure(groups["freshly recalibrated"], f"{name}, seed {seed}", make(seed))
            measure(groups["as training left it"], f"{name}, seed {seed}", make(seed, fresh=False))
        for fault in faults.FAULTS:
            measure(groups["twins"], f"{fault.name}, seed {seed}", fault.twin(seed))
        print(f"healthy networks: seed {seed + 1} of {seeds}", file=sys.stderr)
    return groups


def mildest(seeds: int) -> dict[str, float]:
    """Measure the planted mistakes: what is farthest from a finding, at the layers found."""
    found: dict[str, list[float]] = {}
    for fault in faults.FAULTS:
        for seed in range(seeds):
            evidence = diagnosed(fault.plant(seed)).evidence
            assert evidence is not None
            for quantity in QUANTITIES:
                if fault.rule == quantity.rule:
                    values = list(quantity.values(evidence, fault.layers))
                elif quantity.rule == "train_eval_gap" and fault.cause:
                    values = list(quantity.values(evidence, fault.layers[:1]))
                else:
                    continue
                found.setdefault(quantity.name, []).extend(values)
    flip = {q.name: max if q.less_is_worse else min for q in QUANTITIES}
    return {name: flip[name](values) for name, values in found.items() if values}


def table(groups: dict[str, Group], planted: dict[str, float]) -> Iterator[str]:
    """Yield a row for each quantity."""
    yield (
        "| quantity | rule | healthy: median | worst, recalibrated | worst of all | threshold | "
        "mildest planted |"
    )
    yield "|---|---|---:|---:|---:|---:|---:|"
    for quantity in QUANTITIES:
        every = [v for group in groups.values() for v in group.values[quantity.name]]
        fresh = groups["freshly recalibrated"].values[quantity.name]
        sign = "<" if quantity.less_is_worse else ">"
        cells = [
            quantity.name,
            f"`{quantity.rule}`",
            number(statistics.median(every)) if every else "-",
            number(quantity.worst(fresh)) if fresh else "-",
            number(quantity.worst(every)) if every else "-",
            f"{sign} {number(quantity.threshold)}",
            number(planted.get(quantity.name)),
        ]
        yield f"| {' | '.join(cells)} |"


def number(value: float | None) -> str:
    """Format with three digits."""
    return "-" if value is None else f"{value:.3g}".replace("-", "−")


INTRODUCTION = """\
# How the thresholds of `bn.diagnose` were chosen

Written by `python benchmarks/diagnose_calibration.py --seeds {seeds}`; networks and mistakes are
those of `examples/healthy.py`, `examples/faults.py` and `examples/ported.py`, on scikit-learn's
digits, in batches of 64.

A threshold lies between what healthy networks show at their worst and what a planted mistake shows
at its mildest. Healthy are an MLP, a small ResNet and a small U-Net, freshly recalibrated and as
training leaves them, and the {twins} networks in which the mistakes are planted, without them.

## False alarms

Findings above information:

| healthy networks | networks × seeds | layers | false alarms |
|---|---:|---:|---:|
"""

MEANING = """
## Thresholds

"""

REST = """
The worst is over all layers, networks and seeds; the mildest over the layers, seeds and mistakes
that the rule is for (for `train_eval_gap`: the mistakes with a gap, each of which is found by one
of its two numbers). `mixed_domains` looks only where batches differ by more than chance, so a share
near its threshold is no alarm among random batches. Batches drawn without replacement differ less
than chance: 16 of 64 are 76 % of the images here, so the median is 0.3 and not 1. Decisions that
differ by batch noise are a finding only with small batches, or where the loss is worse. What is
"times nearer" also has to follow the data channel by channel (a correlation above 0.9), and nearer
than a common factor would. These mistakes are planted into statistics that were just measured on
the batches at hand, so what is mildest here is nearly exact; `tests/diagnosis/test_ported.py` puts
them into statistics as training leaves them. `exchanged_affine` looks at a trial that is only run
where biases look like weights: a dash among the healthy means that none did.

## Where there is no number to calibrate

Findings of structure (`bias_before`, `after_activation`, `after_residual`, `decayed_affine`) are
information. `nonfinite_statistics`, `half_statistics`, `never_updated`, `constant_channels`,
`frozen_halfway` and `uncounted_statistics` are what they say. `reversed_momentum` asks for a
momentum above 0.5, where the statistics are of hardly more than two batches; `slow_momentum` for
5 % of the first statistics left and an error above 0.1; `unpooled_micro_batches` and
`unpooled_replicas` for fewer than 32 independent values in a part; `shared_layer` uses the
thresholds of `stale_statistics` between its places.

## What this does not show

Networks here are small, images have 8×8 pixels, and nothing was trained on an accelerator or for
more than 1200 steps. In larger networks other values are possible; every finding names its numbers
and thresholds.
"""


def document(groups: dict[str, Group], planted: dict[str, float], seeds: int) -> str:
    """Write it all."""
    lines = [
        f"| {name} | {group.networks} | {group.layers} | {len(group.alarms)} |"
        for name, group in groups.items()
    ]
    alarms = [f"- {alarm}" for group in groups.values() for alarm in group.alarms]
    said = "\n\nThey are:\n\n" + "\n".join(alarms) if alarms else ""
    head = INTRODUCTION.format(seeds=seeds, twins=len(faults.FAULTS)) + "\n".join(lines) + said
    return head + "\n" + MEANING + "\n".join(table(groups, planted)) + "\n" + REST


def main() -> None:
    """Measure, and write the document."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=6)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    groups = healthy_groups(options.seeds)
    text = document(groups, mildest(options.seeds), options.seeds)
    if options.out is None:
        print(text, end="")
    else:
        options.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
