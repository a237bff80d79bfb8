"""The share of values where a sigmoid or tanh is flat: its slope is below 1 % of the steepest.

Over all batches, as in training.

Source: Glorot & Bengio 2010, AISTATS, section 3.
"""

from ...records import Measure
from ..evidence import ActivationEvidence, Evidence

MEASURE = Measure(
    name="saturated",
    title="saturated",
    meaning="Share of values where the slope of a sigmoid or tanh is below 1 % of the steepest.",
    source="Glorot & Bengio 2010, AISTATS, section 3",
    unit="share",
    calm=0.01,
    alarm=0.5,
)


def of_layer(evidence: Evidence, layer: str) -> float | None:
    """Compute it for the activations that read a layer directly, or are part of it."""
    return _share([a for a in evidence.activations.values() if a.layer == layer])


def of(evidence: Evidence) -> float | None:
    """Compute it for all activations of the network; each unit counts alike."""
    return _share(list(evidence.activations.values()))


def _share(activations: list[ActivationEvidence]) -> float | None:
    counted = [a for a in activations if a.saturated is not None]
    units = sum(a.units for a in counted)
    return sum(a.units * (a.saturated or 0.0) for a in counted) / units if units else None
