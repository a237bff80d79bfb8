"""How far the smallest variance of a channel is above eps.

    min over channels of σ²_c / eps

σ²_c is the variance within a batch, averaged over the batches. Where it is not far above eps, the
output has not variance 1, and where it is 0 the channel is constant.

Source: Ioffe & Szegedy 2015 (arXiv:1502.03167), Algorithm 1, for eps.
"""

import torch
from torch import Tensor

from ...records import Measure
from ..evidence import BATCH, Calls, LayerEvidence

MEASURE = Measure(
    name="variance_over_eps",
    title="variance / eps",
    meaning="Smallest variance of a channel within a batch, over eps.",
    source="Ioffe & Szegedy 2015 (arXiv:1502.03167), Algorithm 1",
    unit="",
    calm=100.0,
    alarm=1.0,
    logarithmic=True,
)


def variance_within(calls: Calls) -> Tensor:
    """Average the variance within a batch over the batches, by their number of values.

    Returns:
        (C,), correction 0; batches that are not finite are left out.
    """
    known = calls.var.isfinite()
    weight = torch.where(known, calls.count, 0)
    return torch.where(known, calls.var, 0).mul(weight).sum(0) / weight.sum(0)


def of(layer: LayerEvidence) -> float | None:
    """Compute it for a layer."""
    if BATCH not in layer.runs:
        return None
    return float(variance_within(layer.runs[BATCH]).min()) / layer.eps
