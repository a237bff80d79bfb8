"""The charts of the study's report, as the pages of the five claims show them.

Drawn by `batchnorm.report.charts`; chosen here is which part of the record a page is about.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

from batchnorm.records import StudyResult
from batchnorm.report import charts

from . import chart
from .drawing import Drawing

BOTH = ("none", "batch norm")


def drawings(study: StudyResult) -> Iterator[Drawing]:
    """Draw what the pages of the claims show of the study."""
    yield from _covariate_shift(study)
    yield from _gradients(study)
    yield from _learning_rates(study)
    yield _dead_units(study)
    yield from _regularization(study)


def _covariate_shift(study: StudyResult) -> Iterator[Drawing]:
    shift = charts.covariate_shift
    yield Drawing(
        "percentiles",
        "What one sigmoid receives while its network learns",
        "Without batch normalization the three percentiles wander and spread during 200 steps; "
        "with it they stay near −1, 0 and 1.",
        chart.of_figure(
            shift.percentiles(_only(study.distributions, arm=BOTH, activation="sigmoid"), "sigmoid")
        ),
    )
    best = dataclasses.replace(study, drifts=_only(study.drifts, arm=BOTH, condition="best"))
    yield Drawing(
        "drift",
        "How far the inputs of the activations move between two looks",
        "Drift is about ten times smaller with batch normalization, for sigmoid and for ReLU.",
        chart.of_figure(_short(shift.drift(best))),
    )
    yield Drawing(
        "gradient-shift",
        "How much a gradient changes when the layers below have been updated",
        "For sigmoid the gradient changes less with batch normalization; for ReLU the lines cross.",
        chart.of_figure(_short(shift.gradient_shift(best))),
    )


def _gradients(study: StudyResult) -> Iterator[Drawing]:
    draw = charts.gradients.error_by_depth
    for name, step, when, says in (
        (
            "error-signal",
            0,
            "at initialization",
            "For sigmoid, batch normalization keeps the signal level where it shrinks without; "
            "for ReLU it makes it grow towards the first layer, where it is level without.",
        ),
        (
            "error-signal-later",
            100,
            "after 100 steps",
            "After 100 steps the differences are smaller, with and without batch normalization.",
        ),
    ):
        part = dataclasses.replace(study, profiles=_only(study.profiles, step=(step,)))
        yield Drawing(
            name,
            f"The error signal on its way back through six layers, {when}",
            says,
            chart.of_figure(draw(part)),
        )


def _learning_rates(study: StudyResult) -> Iterator[Drawing]:
    rates = charts.learning_rate
    yield Drawing(
        "accuracy-by-rate",
        "Test accuracy against learning rate",
        "With batch normalization accuracy stays up at learning rates ten to thirty times larger; "
        "crosses below the axis are runs that diverged.",
        chart.of_figure(rates.accuracy_by_rate(study), width=200),
    )
    both = dataclasses.replace(
        study,
        stability=_only(study.stability, arm=BOTH),
        curves=_only(study.curves, arm=BOTH),
    )
    yield Drawing(
        "stable-rates",
        "The largest stable learning rate, seed by seed",
        "Every line rises: for each seed the largest stable rate is larger with batch "
        "normalization.",
        chart.of_figure(rates.stable_rates(both)),
    )
    yield Drawing(
        "training-curves",
        "Validation accuracy while training, each arm at its best learning rate",
        "The line with batch normalization lies further left: it needs fewer steps.",
        chart.of_figure(rates.training_curves(both)),
    )


def _dead_units(study: StudyResult) -> Drawing:
    relu = _only(study.dead_units, activation="relu", condition="best")
    figure = charts.dead_units.dead_units(dataclasses.replace(study, dead_units=relu))
    return Drawing(
        "dead-units",
        "Dead ReLUs at the start, and those that died in training",
        "With batch normalization none; with He initialization about one unit in a hundred of "
        "either kind; with PyTorch's default initialization many.",
        chart.of_figure(_short(figure), width=460),
    )


def _regularization(study: StudyResult) -> Iterator[Drawing]:
    draw = charts.regularization
    best = dataclasses.replace(study, gaps=_only(study.gaps, condition="best"))
    yield Drawing(
        "gap-by-seed",
        "Train minus test accuracy at the same training loss, seed by seed",
        "Most lines fall towards batch normalization, but not all, and by little.",
        chart.of_figure(_short(draw.gap_by_seed(best))),
    )
    yield Drawing(
        "gap-by-virtual-batch",
        "Train minus test accuracy against the samples per statistic",
        "The mean gap is smaller with fewer samples per statistic, but seeds differ more than "
        "that.",
        chart.of_figure(draw.gap_by_virtual_batch(study)),
    )


def _only(records: tuple[Any, ...], **values: object) -> tuple[Any, ...]:
    """Keep the records whose fields have one of these values."""
    return tuple(
        record
        for record in records
        if all(
            getattr(record, field) in (allowed if isinstance(allowed, tuple) else (allowed,))
            for field, allowed in values.items()
        )
    )


def _short(figure: charts.Figure) -> charts.Figure:
    """Name panels after the activation alone, where all of them are of one condition."""
    rows = tuple({**row, "panel": row["panel"].split(",")[0]} for row in figure.rows)
    sort = list(dict.fromkeys(row["panel"] for row in rows))
    spec = {**figure.spec, "facet": {**figure.spec["facet"], "sort": sort}}
    return dataclasses.replace(figure, rows=rows, spec=spec)
