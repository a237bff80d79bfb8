"""From outcomes to the record that a report is drawn from."""

import datetime
import importlib.metadata
import platform
from collections.abc import Iterable, Iterator

import torch

from ..records import (
    SCHEMA,
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
from .claims.generalization_gap import gap_at, matched_loss
from .design import BATCH_NORM, NONE, STABILITY
from .evidence import BEST, MATCHED, Evidence, failed
from .judge import judge
from .models import INITIALIZATION
from .outcome import Outcome
from .training import DIVERGED


def assemble(
    evidence: Evidence, outcomes: list[Outcome], planned: int, partial: bool, seconds: float
) -> StudyResult:
    """Judge the claims and lay out the evidence.

    Args:
        evidence: The outcomes, looked up.
        outcomes: The same in the order of the plan.
        planned: How many trials the study has.
        partial: It was stopped before its last trial.
        seconds: Wall time of this run of the study.

    Returns:
        The record, the same for the same outcomes but for its times.
    """
    failures = failed(outcomes)
    return StudyResult(
        schema=SCHEMA,
        title=_title(evidence),
        partial=partial,
        counts=Counts(planned, len(outcomes), _diverged(outcomes), len(failures)),
        wall_seconds=round(seconds, 1),
        finished=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        settings=_settings(evidence),
        chosen_lr=_chosen(evidence),
        versions=_versions(),
        notes=tuple(_notes(evidence)),
        claims=judge(evidence),
        runs=tuple(_run(o) for o in outcomes if o.config.stage != STABILITY),
        stability=tuple(_stability(o) for o in outcomes if o.largest_rate),
        curves=tuple(p for o in _probes(evidence, BEST) for p in _curve(o)),
        distributions=tuple(p for o in _probes(evidence, BEST) for p in _distribution(o)),
        profiles=tuple(p for o in _probes(evidence, BEST) for p in _profiles(o)),
        drifts=tuple(
            p for c in (BEST, MATCHED) for o in _probes(evidence, c) for p in _drifts(o, c)
        ),
        dead_units=tuple(
            _dead(o, c) for c in (BEST, MATCHED) for o in _probes(evidence, c) if o.dead
        ),
        gaps=tuple(_gaps(evidence)),
        spend=tuple(_spend(evidence, outcomes)),
        failures=tuple(
            Failure(o.config.key, o.config.label, o.error, o.traceback) for o in failures
        ),
    )


def _title(evidence: Evidence) -> str:
    problem = evidence.design.problem
    network = problem.model or f"{problem.depth} hidden layers of {problem.width} units"
    return f"Batch normalization on trial: {network}, {problem.data or 'handwritten digits'}"


def _diverged(outcomes: Iterable[Outcome]) -> int:
    return sum(o.status == DIVERGED for o in outcomes)


def _probes(evidence: Evidence, condition: str) -> Iterator[Outcome]:
    design = evidence.design
    for activation in design.activations:
        for arm in design.arms if condition == BEST else (NONE, BATCH_NORM):
            for seed in range(design.seeds):
                outcome = evidence.probe(activation, arm, condition, seed)
                if outcome is not None:
                    yield outcome


def _run(o: Outcome) -> Run:
    c, f = o.config, o.final
    return Run(
        stage=c.stage,
        activation=c.activation,
        arm=c.arm,
        lr=c.lr,
        seed=c.seed,
        status=o.status,
        steps=o.steps,
        train_loss=f.train_loss if f else None,
        train_accuracy=f.train_accuracy if f else None,
        val_accuracy=f.val_accuracy if f else None,
        test_loss=f.test_loss if f else None,
        test_accuracy=f.test_accuracy if f else None,
        seconds=round(o.seconds, 3),
        virtual_batch_size=c.virtual_batch_size,
    )


def _stability(o: Outcome) -> Stability:
    assert o.largest_rate is not None
    c, found = o.config, o.largest_rate
    seconds = round(o.seconds, 3)
    return Stability(
        c.activation, c.arm, c.seed, found.lr, found.bound, found.runs, o.steps, seconds
    )


def _curve(o: Outcome) -> Iterator[CurvePoint]:
    c = o.config
    for e in o.curve:
        yield CurvePoint(
            c.activation,
            c.arm,
            c.lr,
            c.seed,
            e.step,
            e.train_loss,
            e.train_accuracy,
            e.val_accuracy,
            e.test_accuracy,
        )


def _distribution(o: Outcome) -> Iterator[Distribution]:
    c = o.config
    for p in o.percentiles:
        yield Distribution(c.activation, c.arm, c.seed, p.step, p.p15, p.p50, p.p85)


def _profiles(o: Outcome) -> Iterator[Profile]:
    c = o.config
    for p in o.profiles:
        for i, (h, d) in enumerate(zip(p.input_rms, p.error_rms, strict=True), start=1):
            yield Profile(c.activation, c.arm, c.seed, p.step, i, h, d)


def _drifts(o: Outcome, condition: str) -> Iterator[Drift]:
    c = o.config
    loss = {e.step: e.train_loss for e in o.curve}
    drifts = {p.step: p for p in o.drifts}
    shifts = {p.step: p for p in o.shifts}
    for step in sorted({*drifts, *shifts}):
        drift, shift = drifts.get(step), shifts.get(step)
        at_or_before = max((s for s in loss if s <= step), default=None)
        yield Drift(
            c.activation,
            c.arm,
            condition,
            c.seed,
            step,
            drift.drift if drift else None,
            drift.shape if drift else None,
            shift.relative if shift else None,
            shift.cosine if shift else None,
            None if at_or_before is None else loss[at_or_before],
        )


def _dead(o: Outcome, condition: str) -> DeadUnits:
    assert o.dead is not None
    c, d = o.config, o.dead
    return DeadUnits(
        c.activation,
        c.arm,
        condition,
        c.seed,
        d.units,
        d.born_dead,
        d.died,
        d.revived,
        d.saturated,
    )


def _gaps(evidence: Evidence) -> Iterator[Gap]:
    design = evidence.design
    sizes = (*design.virtual_batch_sizes, design.problem.batch_size)
    for activation in design.activations:
        for seed in range(design.seeds):
            for condition in (BEST, MATCHED):
                pair = [
                    evidence.probe(activation, arm, condition, seed) for arm in (NONE, BATCH_NORM)
                ]
                yield from _gap_rows(evidence, pair, condition)
            ghosts = [evidence.ghost(activation, size, seed) for size in sizes]
            yield from _gap_rows(evidence, ghosts, "virtual batch", sizes)


def _gap_rows(
    evidence: Evidence,
    runs: list[Outcome | None],
    condition: str,
    sizes: tuple[int, ...] | None = None,
) -> Iterator[Gap]:
    done = [run for run in runs if run is not None and evidence.learned(run)]
    loss = matched_loss(done) if len(done) == len(runs) else None
    for i, run in enumerate(runs):
        if run is None:
            continue
        c, f = run.config, run.final
        ends = f is not None and f.train_accuracy is not None and f.test_accuracy is not None
        yield Gap(
            c.activation,
            c.arm,
            condition,
            c.seed,
            loss,
            gap_at(run, loss) if loss is not None else None,
            (f.train_accuracy or 0) - (f.test_accuracy or 0) if f and ends else None,
            sizes[i] if sizes else None,
        )


def _spend(evidence: Evidence, outcomes: list[Outcome]) -> Iterator[Spend]:
    for activation in evidence.design.activations:
        for arm in evidence.design.arms:
            own = [o for o in outcomes if (o.config.activation, o.config.arm) == (activation, arm)]
            runs = sum(o.largest_rate.runs if o.largest_rate else 1 for o in own)
            seconds = round(sum(o.seconds for o in own), 1)
            yield Spend(activation, arm, runs, sum(o.steps for o in own), seconds)


def _settings(evidence: Evidence) -> dict[str, str]:
    design, problem = evidence.design, evidence.design.problem
    settings = {
        "network": problem.model
        or f"perceptron of {problem.depth} hidden layers of {problem.width} units",
        "data": problem.data
        or "scikit-learn digits: 1,797 images of 8 × 8, "
        "60 % training, 20 % validation, 20 % test, drawn anew for each seed",
        "inputs": {
            "standardize": "standardized: mean 0, standard deviation 1, fitted on training data",
            "minmax": "min-max normalized: mapped to 0..1, fitted on training data",
            "raw": "as given",
        }[problem.inputs],
        "optimizer": f"SGD, momentum {problem.momentum}, constant learning rate, no weight decay",
        "budget of a run": f"{problem.steps} steps of {problem.batch_size} samples",
        "learning rates": ", ".join(f"{lr:g}" for lr in design.lrs),
        "seeds": f"{design.seeds}, paired: same split, data order and shared initial weights",
        "choice of learning rate": "per arm, by validation accuracy of the other seeds; "
        "same grid and budget for every arm",
        "probe set": "the training part; drift on its first 512 samples",
        "probing mode": "batch statistics of the probe set in batch normalization, "
        "everything else in eval mode",
        "smallest effects of interest": "ratios 1.25 times, accuracies and shares 0.5 points",
    }
    if not problem.model:
        for activation in design.activations:
            settings[f"initialization without BN, {activation}"] = INITIALIZATION[activation]
    return settings


def _chosen(evidence: Evidence) -> dict[str, str]:
    design = evidence.design
    chosen = {}
    for activation in design.activations:
        for arm in design.arms:
            rates = [evidence.tuned_lr(activation, arm, s) for s in range(design.seeds)]
            chosen[f"{activation}, {arm}"] = _count_rates(rates)
        same = [evidence.matched_lr(activation, s) for s in range(design.seeds)]
        chosen[f"{activation}, the same for both arms"] = _count_rates(same)
    return chosen


def _count_rates(rates: list[float | None]) -> str:
    known = sorted(rate for rate in rates if rate is not None)
    counts = {rate: known.count(rate) for rate in known}
    if not counts:
        return "not known yet"
    if len(counts) == 1:
        return f"{known[0]:g}"
    return ", ".join(f"{rate:g} ({n} of {len(known)} seeds)" for rate, n in counts.items())


def _notes(evidence: Evidence) -> Iterator[str]:
    design = evidence.design
    yield (
        "The verdicts hold for this network, data and budget. Every difference is paired by seed "
        "and positive in favor of batch normalization; intervals are 95 % paired t intervals."
    )
    if not design.problem.model:
        yield (
            "The arm without batch normalization gets the initialization meant for its activation "
            "("
            + "; ".join(f"{a}: {INITIALIZATION[a]}" for a in design.activations)
            + "). This choice decides claim 2: PyTorch's default initialization is shown as a "
            "third arm, and is no part of the verdicts."
        )
    edges = [
        f"{activation}, {arm}"
        for activation in design.activations
        for arm in (NONE, BATCH_NORM)
        if _on_edge(evidence, activation, arm)
    ]
    if edges:
        yield (
            "The best learning rate lies on the edge of the grid for "
            + "; ".join(edges)
            + ": extend the grid (--lr) before trusting a comparison of tuned arms."
        )


def _on_edge(evidence: Evidence, activation: str, arm: str) -> bool:
    rates = {evidence.tuned_lr(activation, arm, s) for s in range(evidence.design.seeds)}
    lrs = evidence.design.lrs
    return bool(rates & {lrs[0], lrs[-1]})


def _versions() -> dict[str, str]:
    names = ("batchnorm", "torch", "numpy", "scipy", "scikit-learn", "joblib")
    return {
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in names},
        "platform": platform.platform(terse=True),
        "processor": torch.backends.cpu.get_cpu_capability(),
    }
