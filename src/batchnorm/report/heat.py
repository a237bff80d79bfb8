"""The network as a strip: one column a layer, one row a quantity, color where it is bad."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ..records import DiagnosisResult, LayerResult, Measure
from . import wording


@dataclass(frozen=True)
class Cell:
    """One quantity of one layer."""

    heat: int | None
    """Percent of full color; None where it was not measured."""
    text: str
    """What the number is, with its unit."""


@dataclass(frozen=True)
class Row:
    """One quantity over the layers."""

    measure: Measure
    is_judged: bool
    """Whether full color is bad; otherwise it is merely the largest."""
    cells: tuple[Cell, ...]


def rows(result: DiagnosisResult) -> tuple[Row, ...]:
    """Color all quantities that were measured for some layer."""
    found = (_row(measure, result.layers) for measure in result.measures)
    return tuple(row for row in found if any(cell.heat is not None for cell in row.cells))


def heat(value: float | None, measure: Measure) -> float | None:
    """Place a value between what is calm (0) and what is alarming (1).

    Example:
        >>> measure = Measure("m", "", "", "", "", calm=100.0, alarm=1.0, logarithmic=True)
        >>> heat(10.0, measure), heat(1000.0, measure), heat(0.0, measure), heat(None, measure)
        (0.5, 0.0, 1.0, None)
    """
    value = wording.finite(value)
    if value is None or measure.calm is None or measure.alarm is None:
        return None
    calm, alarm = measure.calm, measure.alarm
    if measure.logarithmic:
        value, calm, alarm = (math.log(max(v, 1e-300)) for v in (value, calm, alarm))
    return min(max((value - calm) / (alarm - calm), 0.0), 1.0)


def worst(layer: LayerResult, measures: Sequence[Measure]) -> float:
    """Give the largest heat of a layer."""
    heats = (heat(layer.quantities.get(measure.name), measure) for measure in measures)
    return max((h for h in heats if h is not None), default=0.0)


def _row(measure: Measure, layers: Sequence[LayerResult]) -> Row:
    values = [wording.finite(layer.quantities.get(measure.name)) for layer in layers]
    is_judged = measure.calm is not None
    shares = [heat(v, measure) for v in values] if is_judged else _ranked(values)
    cells = tuple(
        Cell(None if share is None else round(100 * share), quantity(value, measure.unit))
        for share, value in zip(shares, values, strict=True)
    )
    return Row(measure, is_judged, cells)


def _ranked(values: Sequence[float | None]) -> list[float | None]:
    """Place values between the smallest and the largest, by their logarithm."""
    logs = [None if v is None else math.log(max(abs(v), 1e-300)) for v in values]
    known = [v for v in logs if v is not None and v > -600]
    if not known:
        return [None if v is None else 0.0 for v in logs]
    low, high = min(known), max(known)
    if high - low < 0.05:  # alike: no difference is worth a color
        return [None if v is None else 0.0 for v in logs]
    return [None if v is None else max(0.0, (v - low) / (high - low)) for v in logs]


_UNITS = {"sd": " sd", "s": " s", "values": " values", "samples": " samples"}


def quantity(value: float | None, unit: str) -> str:
    """Write a number with its unit.

    Example:
        >>> quantity(0.25, "share"), quantity(0.031, "sd"), quantity(-0.693, "log")
        ('25.0 %', '0.031 sd', '0.50x')
    """
    if value is None:
        return wording.ABSENT
    if unit == "share" and (value == 0 or value > 1e-4):
        return wording.percent(value)
    if unit == "log":
        return f"{wording.number(math.exp(min(value, 700.0)), 2)}x"
    return wording.number(value, 2) + _UNITS.get(unit, "")
