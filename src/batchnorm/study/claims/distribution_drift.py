"""Claim 1a: do the distributions that activations receive drift less with batch normalization?

For one unit let h_t be its activation's input over the probe set after t updates. Its drift since
the previous probe is the earth mover's distance W1(h_t, h_{t-Δ}) = mean_i |sort(h_t)_i -
sort(h_{t-Δ})_i|, divided by the unit's standard deviation at initialization (a fixed scale: a
running one turns a frozen network into an enormous drift). A run's drift is the mean over units,
layers and probes.

Batch normalization pins two moments of these distributions, which makes a smaller drift nearly a
tautology; `shape` is therefore measured beside it, after standardizing both samples.

Source: Ioffe & Szegedy 2015 (arXiv:1502.03167), Fig. 1 (percentiles of one unit); Huang & Yu 2020
(arXiv:2001.02814) for the earth mover's distance.
"""

import torch
from torch import Tensor, nn

from ..evidence import Evidence
from ..outcome import DriftPoint, Outcome, Percentiles
from ..probe import activation_inputs, by_unit
from .cell import RATIO, Cell, Definition, cells_by_condition, log_ratio, mean, where_trained

PROBE_SAMPLES = 512

_PERCENTILES = torch.tensor([0.15, 0.50, 0.85])

_SMALLEST_SCALE = 1e-6
"""A unit that was constant at the start has no scale of its own."""


class DriftMeter:
    """Compares a network with itself at the previous probe, on one fixed probe set."""

    def __init__(self, x: Tensor) -> None:
        self.x = x[:PROBE_SAMPLES]
        self.previous: list[Tensor] = []
        self.scales: list[Tensor] = []
        self.points: list[DriftPoint] = []
        self.percentiles: list[Percentiles] = []

    def look(self, step: int, model: nn.Module) -> None:
        """Probe the network after `step` updates; one that is not finite is not measured."""
        inputs = [by_unit(h) for _, h in activation_inputs(model, self.x)]
        if not inputs or not all(bool(torch.isfinite(h).all()) for h in inputs):
            return
        ordered = [h.sort(0).values for h in inputs]
        self.percentiles.append(typical_percentiles(step, ordered[-1]))
        if not self.previous:
            self.scales = [h.std(0, correction=0).clamp_min(_SMALLEST_SCALE) for h in ordered]
        else:
            pairs = list(zip(self.previous, ordered, strict=True))
            scaled = [earth_mover(a, b) / s for (a, b), s in zip(pairs, self.scales, strict=True)]
            shapes = [earth_mover(_standardize(a), _standardize(b)) for a, b in pairs]
            self.points.append(DriftPoint(step, _mean_of(scaled), _mean_of(shapes)))
        self.previous = ordered


def earth_mover(a: Tensor, b: Tensor) -> Tensor:
    """W1 of every unit between two samples of one size, each sorted along axis 0: (units,)."""
    return (a - b).abs().mean(0)


def typical_percentiles(step: int, ordered: Tensor) -> Percentiles:
    """Percentiles of the middle unit of a layer: a fixed choice, blind to what the unit does."""
    values = torch.quantile(ordered[:, ordered.shape[1] // 2], _PERCENTILES.to(ordered.dtype))
    return Percentiles(step, *values.tolist())


def run_drift(outcome: Outcome) -> float | None:
    """The drift of one run: the mean over its probes."""
    return mean([point.drift for point in outcome.drifts])


def cells(evidence: Evidence) -> list[Cell]:
    """ln(drift without / drift with), where both arms trained: a dead network does not drift."""
    return cells_by_condition(
        evidence, where_trained(evidence, lambda a, b: log_ratio(run_drift(a), run_drift(b)))
    )


DEFINITION = Definition(
    id="1a",
    name="Distribution drift",
    quantity="drift without batch normalization divided by drift with it",
    scale="ratio",
    threshold=RATIO,
    source="Ioffe & Szegedy 2015, Fig. 1; Huang & Yu 2020 (earth mover's distance)",
    cells=cells,
)


def _standardize(ordered: Tensor) -> Tensor:
    spread = ordered.std(0, correction=0).clamp_min(_SMALLEST_SCALE)
    return (ordered - ordered.mean(0)) / spread


def _mean_of(per_layer: list[Tensor]) -> float:
    return float(torch.stack([layer.mean() for layer in per_layer]).mean())
