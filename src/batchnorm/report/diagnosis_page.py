"""The page of a diagnosis: records and templates -> one HTML file."""

from dataclasses import dataclass
from pathlib import Path

from .. import records
from ..records import DiagnosisResult, Finding, LayerResult
from . import downloads, embed, heat, sketches, wording
from .charts.figure import table

OPENED = 4
"""Layers that are shown opened."""

_SLUGS = {"error": "contradicted", "warning": "inconclusive", "information": "exploratory"}
_RANKS = {"error": 0, "warning": 1, "information": 2}


@dataclass(frozen=True)
class Group:
    """The findings of one rule with one severity."""

    severity: str
    slug: str
    first: Finding
    others: tuple[Finding, ...]


@dataclass(frozen=True)
class Sheet:
    """One layer with all there is to it."""

    number: int
    layer: LayerResult
    slug: str
    """Name of the color of its gravest finding; empty where it has none."""
    findings: tuple[Finding, ...]
    shape: sketches.Shape | None
    channels: sketches.Channels | None
    numbers: tuple[tuple[str, str, str], ...]
    """Title, value, meaning."""


def write_diagnosis(result: DiagnosisResult, path: Path) -> None:
    """Write the page of a diagnosis to one HTML file; a reader never sees half of it.

    Args:
        result: What was found.
        path: Where the file goes; an existing file is replaced.
    """
    records.write_text(path, render_diagnosis(result))


def render_diagnosis(result: DiagnosisResult) -> str:
    """Render a diagnosis as one HTML page that needs no network, and no script to be read.

    Args:
        result: What was found.

    Returns:
        The HTML of the page; the same result gives the same bytes.
    """
    sheets = [_sheet(number, layer, result) for number, layer in enumerate(result.layers, 1)]
    worst = sorted(sheets, key=lambda s: (_rank(s), -heat.worst(s.layer, result.measures)))
    opened = [sheet for sheet in worst if _rank(sheet) <= _RANKS["warning"]][:OPENED] or worst[:1]
    return (
        embed.environment()
        .get_template("diagnosis.html")
        .render(
            title=f"Batch normalization of {result.model}",
            result=result,
            groups=_groups(result),
            network=_network(result),
            rows=heat.rows(result),
            sheets=sheets,
            opened=opened,
            rest=[sheet for sheet in sheets if sheet not in opened],
            numbers=_table(result),
            settings={**result.settings, "time": wording.duration(result.seconds)},
            results_uri=downloads.results_uri(result),
            figures_json=embed.as_json({}),
            style=embed.template_text("style.css"),
            script=embed.template_text("script.js"),
            vega="",
            box=(sketches.WIDTH, sketches.HEIGHT, sketches.SIDE, sketches.MARGIN),
        )
    )


def _groups(result: DiagnosisResult) -> list[Group]:
    return [
        Group(first.severity, _SLUGS.get(first.severity, "unmeasured"), first, tuple(others))
        for first, *others in records.grouped(result.findings)
    ]


def _sheet(number: int, layer: LayerResult, result: DiagnosisResult) -> Sheet:
    found = tuple(f for f in result.findings if f.layer == layer.name)
    gravest = min((f.severity for f in found), key=lambda s: _RANKS.get(s, 9), default="")
    numbers = tuple(
        (m.title, heat.quantity(layer.quantities.get(m.name), m.unit), m.meaning)
        for m in result.measures
        if layer.quantities.get(m.name) is not None
    )
    return Sheet(
        number,
        layer,
        _SLUGS.get(gravest, ""),
        found,
        sketches.shape(layer.histogram),
        sketches.channels(layer),
        numbers,
    )


def _rank(sheet: Sheet) -> int:
    return min((_RANKS.get(f.severity, 9) for f in sheet.findings), default=9)


def _network(result: DiagnosisResult) -> list[tuple[str, str, str]]:
    return [
        (m.title, heat.quantity(result.quantities.get(m.name), m.unit), m.meaning)
        for m in result.network_measures
        if result.quantities.get(m.name) is not None
    ]


def _table(result: DiagnosisResult) -> object:
    columns = ["layer", "class", "channels", "mode", *(m.title for m in result.measures)]
    rows = (
        [
            layer.name or "(model)",
            layer.kind,
            wording.integer(layer.channels),
            layer.mode,
            *(heat.quantity(layer.quantities.get(m.name), m.unit) for m in result.measures),
        ]
        for layer in result.layers
    )
    return table(columns, rows, limit=10_000)
