"""The share of channels that γ and β switch off.

    share of channels with β + 2|γ| < 0, or |γ| < 10⁻³

After normalization 98 % of the values of a bell-shaped channel lie below 2 standard deviations, so
that β + 2|γ| < 0 leaves a following ReLU off for nearly all; and with γ near 0 the output does not
depend on the input. Needs no data. β + 2|γ| < 0 counts only where a ReLU reads the layer.

Source: Lu et al. 2019 (arXiv:1903.06733) for dying; Ye et al. 2018 (arXiv:1802.00124) for γ near 0.
"""

from torch import Tensor

from ...records import Measure
from ..evidence import LayerEvidence

MEASURE = Measure(
    name="switched_off",
    title="γ, β switch off",
    meaning="Share of channels with |γ| < 0.001, or β + 2|γ| < 0 in front of a ReLU.",
    source="Lu et al. 2019 (arXiv:1903.06733); Ye et al. 2018 (arXiv:1802.00124)",
    unit="share",
    calm=0.0,
    alarm=0.5,
)

SMALL = 1e-3


def switched_off(weight: Tensor, bias: Tensor | None, before_relu: bool) -> Tensor:
    """Say which channels are off.

    Args:
        weight: γ, (C,).
        bias: β, (C,), or None.
        before_relu: Whether a ReLU reads the output.

    Returns:
        bool (C,).
    """
    off = weight.abs() < SMALL
    if before_relu and bias is not None:
        off = off | (bias + 2 * weight.abs() < 0)
    return off


def of(layer: LayerEvidence) -> float | None:
    """Compute it for a layer."""
    if layer.weight is None:
        return None
    readers = [n.what.lower() for n in layer.read_by]
    own = layer.options.get("activation") == "relu"
    before = own or (bool(readers) and all(what == "relu" for what in readers))
    return float(switched_off(layer.weight, layer.bias, before).double().mean())
