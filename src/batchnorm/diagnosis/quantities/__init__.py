"""One number per file: its definition, its source, and what it is called."""

from collections.abc import Callable, Mapping

from ...records import Measure
from ..evidence import LayerEvidence
from . import log_std_error, mean_error

OfLayer = Callable[[LayerEvidence], float | None]

LAYER: tuple[tuple[Measure, OfLayer], ...] = (
    (mean_error.MEASURE, mean_error.of),
    (log_std_error.MEASURE, log_std_error.of),
)
"""In the order of display."""


def of_layer(layer: LayerEvidence) -> Mapping[str, float | None]:
    """Compute every quantity of a layer; None where it was not measured."""
    return {measure.name: compute(layer) for measure, compute in LAYER}
