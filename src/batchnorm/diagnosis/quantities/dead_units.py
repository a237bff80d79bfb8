"""The share of units whose ReLU is never on.

    (1/C) Σ_c 1[max over samples and positions of ReLU(h_c) ≤ 0]

Over all batches, as in training. A few batches overstate it. Where a value is not finite it is not
measured: NaN ≤ 0 is false, and a diverged network would look alive.

Source: Lu et al. 2019 (arXiv:1903.06733).
"""

from ...records import Measure
from ..evidence import ActivationEvidence, Evidence

MEASURE = Measure(
    name="dead_units",
    title="dead units",
    meaning="Share of channels whose ReLU is on for no sample at no position.",
    source="Lu et al. 2019 (arXiv:1903.06733)",
    unit="share",
    calm=0.0,
    alarm=0.3,
)


def of_layer(evidence: Evidence, layer: str) -> float | None:
    """Compute it for the ReLUs that read a layer directly, or are part of it."""
    return _share([a for a in evidence.activations.values() if a.layer == layer])


def of(evidence: Evidence) -> float | None:
    """Compute it for all ReLUs of the network."""
    return _share(list(evidence.activations.values()))


def _share(activations: list[ActivationEvidence]) -> float | None:
    counted = [a for a in activations if a.dead is not None]
    units = sum(a.units for a in counted)
    return sum(a.dead or 0 for a in counted) / units if units else None
