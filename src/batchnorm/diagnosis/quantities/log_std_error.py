"""How far the running standard deviation is from that of the data, as a logarithm.

e_σ = rms over channels of ½ ln((σ²_run + eps) / (σ²_pop + eps))
"""

from torch import Tensor

from ...records import Measure
from ..evidence import LayerEvidence

MEASURE = Measure(
    name="log_std_error",
    title="running deviation",
    meaning="Root mean square over channels of ln(running / recalibrated standard deviation).",
    source="Wu & Johnson 2021 (arXiv:2105.07576), section 3",
    unit="log",
    calm=0.05,
    alarm=0.7,
    logarithmic=True,
)


def log_std_error(var: Tensor, reference_var: Tensor, eps: float) -> Tensor:
    """Compare standard deviations, channel by channel.

    Args:
        var: (C,).
        reference_var: (C,).
        eps: The layer's; part of both.

    Returns:
        ln of their ratio, (C,); positive where `var` is larger.
    """
    return ((var + eps) / (reference_var + eps)).log() / 2


def of_channels(layer: LayerEvidence) -> Tensor | None:
    """Compute it for the channels of a layer; None where there is no pair to compare."""
    if layer.running_var is None or layer.population_var is None:
        return None
    return log_std_error(layer.running_var, layer.population_var, layer.eps)


def of(layer: LayerEvidence) -> float | None:
    """Compute it for a layer."""
    errors = of_channels(layer)
    return None if errors is None else float(errors.square().mean().sqrt())
