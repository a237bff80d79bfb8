"""What was found, in words and numbers: printable, JSON, and a page."""

import dataclasses
import datetime
import math
import platform
from pathlib import Path

import torch
from torch import Tensor, nn

from ..errors import MissingExtraError
from ..records import (
    DIAGNOSIS_SCHEMA,
    DiagnosisResult,
    Finding,
    Histogram,
    LayerResult,
    grouped,
    to_json,
    write_text,
)
from ..records.diagnosis import SEVERITIES
from . import quantities, rules
from .evidence import BATCH, INFERENCE, RECALIBRATED, Evidence, LayerEvidence
from .quantities import log_std_error, mean_error


class Diagnosis:
    """The findings of `diagnose`, the gravest first, and every number behind them.

    Args:
        result: All of it as plain data.
        evidence: What it was judged from; None where there was nothing to judge.
    """

    def __init__(self, result: DiagnosisResult, evidence: Evidence | None) -> None:
        self.result = result
        self.evidence = evidence

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What was found, the gravest first."""
        return self.result.findings

    @property
    def verdict(self) -> str:
        """One sentence."""
        return self.result.verdict

    @property
    def quantities(self) -> dict[str, dict[str, float | None]]:
        """The numbers of every layer, by its qualified name."""
        return {layer.name: layer.quantities for layer in self.result.layers}

    def __str__(self) -> str:
        return "\n".join([self.verdict, *map(_shown, grouped(self.findings))])

    def __repr__(self) -> str:
        return f"Diagnosis({self.verdict!r})"

    def to_json(self, path: str | Path | None = None) -> str:
        """Write everything as JSON.

        Args:
            path: A file to write to as well, all of it or nothing.

        Returns:
            The JSON; `batchnorm.records.from_json` reads it back.
        """
        text = to_json(self.result)
        if path is not None:
            write_text(Path(path), text)
        return text

    def to_html(self, path: str | Path) -> None:
        """Write a page that needs no network.

        Args:
            path: The file; what is there is replaced.

        Raises:
            MissingExtraError: What pages are drawn with is not installed.
        """
        try:
            from ..report import write_diagnosis
        except ModuleNotFoundError as error:
            raise MissingExtraError(
                f"pages are drawn with {error.name}, which is not installed: "
                f"pip install 'batchnorm[study]'"
            ) from error
        write_diagnosis(self.result, Path(path))


def diagnosis_of(evidence: Evidence, seconds: float) -> Diagnosis:
    """Judge what was seen."""
    found = [_finite(finding) for rule in rules.RULES for finding in rule(evidence)]
    order = {name: number for number, name in enumerate(evidence.layers)}
    found.sort(key=lambda f: (SEVERITIES.index(f.severity), order.get(f.layer or "", -1)))
    result = DiagnosisResult(
        schema=DIAGNOSIS_SCHEMA,
        model=evidence.model,
        verdict=verdict(found, len(evidence.layers)),
        findings=tuple(found),
        layers=tuple(_layer(evidence, layer) for layer in evidence.layers.values()),
        measures=quantities.LAYER_MEASURES,
        quantities={n: _number(v) for n, v in quantities.of_network(evidence).items()},
        network_measures=quantities.NETWORK_MEASURES,
        seconds=seconds,
        finished=_now(),
        settings=_settings(evidence),
        versions=_versions(),
        notes=evidence.notes,
    )
    return Diagnosis(result, evidence)


def without_layers(model: nn.Module) -> Diagnosis:
    """Answer where there is nothing to judge."""
    result = DiagnosisResult(
        schema=DIAGNOSIS_SCHEMA,
        model=type(model).__name__,
        verdict="There is no batch normalization in this model: nothing was run.",
        findings=(),
        layers=(),
        measures=(),
        quantities={},
        network_measures=(),
        seconds=0.0,
        finished=_now(),
        settings={},
        versions=_versions(),
        notes=(
            "Layers are found as modules (torch.nn.BatchNorm1d and the like); calls of "
            "functional.batch_norm, and layers inside compiled scripts, are not seen.",
        ),
    )
    return Diagnosis(result, None)


def verdict(findings: list[Finding], layers: int) -> str:
    """Sum it up in one sentence.

    Example:
        >>> verdict([], 3)
        'Nothing is wrong with the 3 batch normalization layers, as far as these batches show.'
        >>> verdict([Finding("tiny_batch", "bn1", "warning", "", "", "", "")], 2)
        '1 warning in the 2 batch normalization layers: tiny batch (bn1).'
    """
    these = f"the {layers} batch normalization layer{'s' * (layers != 1)}"
    counts = {s: sum(f.severity == s for f in findings) for s in SEVERITIES}
    grave = [f"{n} {s}{'s' * (n != 1)}" for s, n in counts.items() if n and s != "information"]
    if grave:
        rules = [_rule(group) for group in grouped(findings) if group[0].severity in SEVERITIES[:2]]
        return f"{' and '.join(grave)} in {these}: {', '.join(rules)}."
    return f"Nothing is wrong with {these}, as far as these batches show."


def _rule(group: tuple[Finding, ...]) -> str:
    """Name a rule and where it has found something."""
    more = f" and {len(group) - 1} more" if len(group) > 1 else ""
    return f"{group[0].rule.replace('_', ' ')} ({group[0].where}{more})"


def _shown(group: tuple[Finding, ...]) -> str:
    others = ", ".join(finding.where for finding in group[1:])
    return f"{group[0]}\n    also: {others}" if others else str(group[0])


def _finite(finding: Finding) -> Finding:
    numbers = {name: _number(value) for name, value in finding.numbers.items()}
    return dataclasses.replace(finding, numbers=numbers)


def _layer(evidence: Evidence, layer: LayerEvidence) -> LayerResult:
    numbers = quantities.of_layer(evidence, layer)
    return LayerResult(
        name=layer.name,
        kind=layer.kind,
        channels=layer.num_features,
        mode=layer.mode,
        calls=layer.calls,
        quantities={name: _number(value) for name, value in numbers.items()},
        mean_errors=_numbers(mean_error.of_channels(layer)),
        log_std_errors=_numbers(log_std_error.of_channels(layer)),
        histogram=_histogram(layer),
    )


def _histogram(layer: LayerEvidence) -> Histogram | None:
    if layer.edges is None:
        return None
    runs = (BATCH, INFERENCE, RECALIBRATED)
    training, inference, recalibrated = (_shares(layer, run) for run in runs)
    return Histogram(*layer.edges, training, inference, recalibrated)


def _shares(layer: LayerEvidence, run: str) -> tuple[float, ...]:
    if run not in layer.runs:
        return ()
    counts = layer.runs[run].histogram
    shares: list[float] = (counts / counts.sum().clamp(min=1)).tolist()
    return tuple(shares)


def _numbers(values: Tensor | None) -> tuple[float | None, ...]:
    return () if values is None else tuple(_number(value) for value in values.tolist())


def _number(value: float | None) -> float | None:
    return float(value) if value is not None and math.isfinite(value) else None


def _settings(evidence: Evidence) -> dict[str, str]:
    loader = evidence.loader
    total = "" if loader.total is None else f" of {loader.total}"
    return {
        "batches": f"{loader.seen}{total}",
        "samples": str(sum(loader.sizes)),
        "loss": "given" if evidence.losses else "none: gradients were not measured",
        "optimizer": evidence.optimizer or "not given",
        "mode as found": "training" if evidence.training else "evaluation",
        "seconds": ", ".join(f"{run} {value:.2g}" for run, value in evidence.seconds.items()),
    }


def _versions() -> dict[str, str]:
    return {"torch": torch.__version__, "python": platform.python_version()}


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
