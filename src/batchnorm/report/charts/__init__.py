"""The charts of the report: records -> Vega-Lite specifications, one claim a file."""

from ...records import StudyResult
from . import covariate_shift, dead_units, gradients, learning_rate, regularization
from .figure import Figure, Table

__all__ = ["Figure", "Table", "figures"]

_BY_CLAIM = {
    1: covariate_shift.figures,
    2: gradients.figures,
    3: learning_rate.figures,
    4: dead_units.figures,
    5: regularization.figures,
}


def figures(number: int, result: StudyResult) -> tuple[Figure, ...]:
    """Draw the charts of one claim."""
    return _BY_CLAIM[number](result) if number in _BY_CLAIM else ()
