"""One number per file: its definition, its source, and what it is called."""

from collections.abc import Callable

from ...records import Measure
from ..evidence import Evidence, LayerEvidence
from . import (
    activation_rms,
    batch_leakage,
    between_batch,
    constant_channels,
    cost,
    dead_units,
    effective_batch,
    error_growth,
    error_rms,
    exchanged,
    flip_rate,
    gamma,
    gap_recalibrated,
    gap_redrawn,
    inference_leakage,
    log_std_error,
    loss_gap,
    magnitude,
    mean_error,
    misread,
    output_gap,
    saturated,
    shift_over_scale,
    switched_off,
    undivided,
    updates,
    variance_over_eps,
)

LAYER: tuple[tuple[Measure, Callable[[LayerEvidence], float | None]], ...] = tuple(
    (quantity.MEASURE, quantity.of)
    for quantity in (
        mean_error,
        log_std_error,
        misread,
        exchanged,
        undivided,
        effective_batch,
        between_batch,
        variance_over_eps,
        constant_channels,
        magnitude,
        activation_rms,
        error_rms,
        gamma,
        shift_over_scale,
        switched_off,
        updates,
    )
)
"""Of one layer, from what was seen of it."""

UNITS = ((dead_units.MEASURE, dead_units.of_layer), (saturated.MEASURE, saturated.of_layer))
"""Of the activations that read a layer."""

NETWORK: tuple[tuple[Measure, Callable[[Evidence], float | None]], ...] = tuple(
    (quantity.MEASURE, quantity.of)
    for quantity in (
        output_gap,
        gap_recalibrated,
        gap_redrawn,
        flip_rate,
        loss_gap,
        dead_units,
        saturated,
        error_growth,
        batch_leakage,
        inference_leakage,
        cost,
    )
)

LAYER_MEASURES = tuple(measure for measure, _ in (*LAYER, *UNITS))
"""Those of layers, in the order of display."""

NETWORK_MEASURES = tuple(measure for measure, _ in NETWORK)


def of_layer(evidence: Evidence, layer: LayerEvidence) -> dict[str, float | None]:
    """Compute every quantity of a layer; None where it was not measured."""
    found = {measure.name: compute(layer) for measure, compute in LAYER}
    return found | {measure.name: compute(evidence, layer.name) for measure, compute in UNITS}


def of_network(evidence: Evidence) -> dict[str, float | None]:
    """Compute every quantity of the whole network; None where it was not measured."""
    return {measure.name: compute(evidence) for measure, compute in NETWORK}
