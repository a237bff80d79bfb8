"""The figures of the teaching pages, docs/figures/*.svg, drawn from the records of docs/data."""

import functools

from ..data import DOCS, load, study
from . import claims, depth, dying, ideas, inputs, start, statistics, tasks, variance, verdicts
from .drawing import Drawing

FOLDER = DOCS / "figures"


@functools.cache
def drawings() -> tuple[Drawing, ...]:
    """Every figure, in the order of the pages."""
    return (
        *verdicts.drawings(study()),
        *claims.drawings(study()),
        *depth.drawings(load("depth")),
        *dying.drawings(),
        *statistics.drawings(load("noise"), load("running")),
        *ideas.drawings(),
        *variance.drawings(load("variance")),
        *inputs.drawings(load("hidden"), load("placement")),
        *start.drawings(load("start"), load("mistakes")),
        *tasks.drawings(),
    )
