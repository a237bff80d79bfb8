"""How far the running mean is from that of the data.

    e_μ = rms over channels of (μ_run − μ_pop) / √(σ²_pop + eps)

The population is what `recalibrate` measures on the batches given. eps is the layer's: it is part
of every standard deviation the layer divides by.
"""

from torch import Tensor

from ...records import Measure
from ..evidence import LayerEvidence

MEASURE = Measure(
    name="mean_error",
    title="running mean",
    meaning="Root mean square over channels of (running − recalibrated mean) / recalibrated "
    "standard deviation.",
    source="Wu & Johnson 2021 (arXiv:2105.07576), section 3",
    unit="sd",
    calm=0.05,
    alarm=1.0,
    logarithmic=True,
)


def mean_error(mean: Tensor, reference_mean: Tensor, reference_var: Tensor, eps: float) -> Tensor:
    """Compare means, channel by channel, in standard deviations of the reference.

    Args:
        mean: (C,).
        reference_mean: (C,).
        reference_var: (C,).
        eps: The layer's.

    Returns:
        (C,), signed.
    """
    return (mean - reference_mean) / (reference_var + eps).sqrt()


def of_channels(layer: LayerEvidence) -> Tensor | None:
    """Compute it for the channels of a layer; None where there is no pair to compare."""
    if layer.running_mean is None or layer.population_mean is None or layer.population_var is None:
        return None
    return mean_error(layer.running_mean, layer.population_mean, layer.population_var, layer.eps)


def of(layer: LayerEvidence) -> float | None:
    """Compute it for a layer."""
    errors = of_channels(layer)
    return None if errors is None else float(errors.square().mean().sqrt())
