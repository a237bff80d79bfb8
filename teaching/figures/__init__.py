"""The figures of the teaching pages, docs/figures/*.svg, drawn from the records of docs/data."""

from collections.abc import Iterator

from ..data import DOCS, load, study
from . import claims, depth, dying, ideas, inputs, statistics, variance, verdicts
from .drawing import Drawing

FOLDER = DOCS / "figures"


def drawings() -> Iterator[Drawing]:
    """Every figure, in the order of the pages."""
    yield from verdicts.drawings(study())
    yield from claims.drawings(study())
    yield from depth.drawings(load("depth"))
    yield from dying.drawings()
    yield from statistics.drawings(load("noise"), load("running"))
    yield from ideas.drawings()
    yield from variance.drawings(load("variance"))
    yield from inputs.drawings(load("hidden"), load("placement"))
