"""By what factor the error signal grows from one layer to the one before it.

    ρ = exp(−slope of ln d_l on l)

d_l is the error signal at the outputs of normalization l = 1 ... k, in call order. 1 is ideal. A
deep plain network with ReLUs has 1.21 at initialization: normalization itself makes it grow.

Source: Yang et al. 2019 (arXiv:1902.08129).
"""

import math

from ...records import Measure
from ..evidence import Evidence

MEASURE = Measure(
    name="error_growth",
    title="backward growth",
    meaning="Factor by which the error signal grows per normalization, from output to input.",
    source="Yang et al. 2019 (arXiv:1902.08129)",
    unit="",
)


def growth(signals: list[float]) -> float | None:
    """Fit a straight line to the logarithms; None for less than two signals above 0.

    Example:
        >>> round(growth([8.0, 4.0, 2.0]), 6)
        2.0
    """
    logs = [(i, math.log(d)) for i, d in enumerate(signals) if d > 0 and math.isfinite(d)]
    if len(logs) < 2:
        return None
    center = math.fsum(i for i, _ in logs) / len(logs)
    slope = math.fsum((i - center) * y for i, y in logs)
    return math.exp(-slope / math.fsum((i - center) ** 2 for i, _ in logs))


def of(evidence: Evidence) -> float | None:
    """Compute it for a network; None without a loss."""
    signals = [layer.error_rms for layer in evidence.layers.values()]
    return growth([d for d in signals if d is not None])
