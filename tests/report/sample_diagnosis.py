"""Diagnoses as they could have come out, made up to the last number."""

import dataclasses

from batchnorm.records import (
    DIAGNOSIS_SCHEMA,
    DiagnosisResult,
    Finding,
    Histogram,
    LayerResult,
    Measure,
)

MEASURES = (
    Measure("mean_error", "running mean", "Mean, off.", "A 2021", "sd", 0.05, 1.0, True),
    Measure("batch", "effective batch", "Values.", "B 1965", "values", 100.0, 1.0, True),
    Measure("output", "output", "Root mean square.", "C 2015", ""),
    Measure("dead", "dead units", "Share.", "D 2019", "share", 0.0, 0.5),
    Measure("never", "never measured", "Nothing.", "E", "", 0.0, 1.0),
)
NETWORK = (
    Measure("gap", "train/eval gap", "Difference.", "A 2021", "sd", 0.1, 1.0, True),
    Measure("loss", "loss gap", "Difference of losses.", "A 2021", ""),
)
WHY = "eval() computes another function than train() did."


def finding(layer, severity="error", rule="never_updated", what="was never updated"):
    remedy = "bn.recalibrate(model, batches)"
    return Finding(rule, layer, severity, what, WHY, remedy, "A 2021", {"mean_error": 1.5})


def layer(name, *numbers, histogram=True):
    bins = tuple(1 / 8 for _ in range(8))
    shifted = (0.5, 0.2, 0.1, 0.1, 0.1, 0.0, 0.0, 0.0)
    return LayerResult(
        name,
        "BatchNorm2d",
        4,
        "learning",
        1.0,
        dict(zip([measure.name for measure in MEASURES], [*numbers, None], strict=True)),
        (0.5, -1.0, None, 0.0) if histogram else (),
        (0.1, 0.2, None, 0.0) if histogram else (),
        Histogram(-2.0, 6.0, bins, shifted, bins) if histogram else None,
    )


def diagnosis():
    """Two layers with errors, two without."""
    return DiagnosisResult(
        schema=DIAGNOSIS_SCHEMA,
        model="Net",
        verdict="2 errors and 1 warning in the 4 batch normalization layers.",
        findings=(
            finding("stem.1"),
            finding("block.bn"),
            finding(None, "warning", "leak", "samples leak"),
            finding("head", "information", "bias", "has a bias"),
        ),
        layers=(
            layer("stem.1", 0.5, 10.0, 1.0, 0.25),
            layer("block.bn", 1.0, 1.0, 0.1, None),
            layer("head", 0.01, 1000.0, 10.0, 0.0, histogram=False),
            layer("", None, None, None, None, histogram=False),
        ),
        measures=MEASURES,
        quantities={"gap": 1.25, "loss": None},
        network_measures=NETWORK,
        seconds=3.25,
        finished="2026-01-02T03:04:05+00:00",
        settings={"batches": "8 of 20", "samples": "256"},
        versions={"torch": "2.13.0"},
        notes=("Samples could not be put into other batches.",),
    )


def healthy():
    """One layer, nothing found."""
    return dataclasses.replace(
        diagnosis(), findings=(), layers=(layer("bn", 0.01, 100.0, 1.0, 0.0),), notes=()
    )


def without_layers():
    """A model that has no batch normalization."""
    return dataclasses.replace(
        diagnosis(),
        verdict="There is no batch normalization in this model: nothing was run.",
        findings=(),
        layers=(),
        measures=(),
        network_measures=(),
        quantities={},
        settings={},
    )


def large():
    """Two hundred layers, as in a large network."""
    layers = tuple(layer(f"stage.{i}.bn", i / 200, 200.0 - i, 1.0, 0.0) for i in range(200))
    findings = tuple(finding(one.name) for one in layers[100:])
    return dataclasses.replace(diagnosis(), layers=layers, findings=findings)


def odd():
    """Names that would be markup."""
    evil = "<script>alert(1)</script>"
    return dataclasses.replace(
        diagnosis(),
        model=evil,
        verdict=evil,
        findings=(dataclasses.replace(finding(evil), what=evil, why=evil, remedy=evil),),
        layers=(layer(evil, 1.0, 1.0, 1.0, 1.0),),
        notes=(evil,),
        settings={evil: evil},
    )
