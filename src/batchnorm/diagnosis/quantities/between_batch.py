"""Whether batches are alike: the variance between batches, over what chance alone would give.

    F = [Σ_b N_b (m_b − m)² / (K − 1)] / [Σ_b (N_b − 1) s²_b / Σ_b (N_b − 1)]

m_b and s²_b are mean and variance (correction 1) of the samples' means in batch b, m the mean of
all. It is the F of a one-way analysis of variance; its mean is near 1 where the batches are random
draws of one population, whatever the correlation of values within a sample. The median over
channels is taken: channels of a layer are correlated, so it is no test.

Source: Fisher 1925, Statistical Methods for Research Workers, chapter VII.
"""

import torch
from torch import Tensor

from ...records import Measure
from ..evidence import BATCH, Calls, LayerEvidence

MEASURE = Measure(
    name="between_batch",
    title="batches differ",
    meaning="Variance of the batches' means over what their samples' variance lets expect (F "
    "ratio of an analysis of variance); 1 for random batches; median over channels.",
    source="Fisher 1925, Statistical Methods for Research Workers, chapter VII",
    unit="",
    calm=2.0,
    alarm=30.0,
    logarithmic=True,
)


def between_batch(calls: Calls) -> Tensor:
    """Compute it for every channel.

    Returns:
        (C,); NaN where there is one batch, no batch with two samples, or no variance within.
    """
    samples = calls.samples[:, None]
    mean = (samples * calls.sample_mean).sum(0) / samples.sum(0)
    between = (samples * (calls.sample_mean - mean).square()).sum(0) / (len(samples) - 1)
    rest = (samples - 1).clamp(min=0)
    within = torch.where(rest > 0, calls.sample_var, 0).mul(rest).sum(0) / rest.sum(0)
    return torch.where(within > 0, between / within, torch.nan)


def of(layer: LayerEvidence) -> float | None:
    """Compute it for a layer; each of its calls in a batch counts as a batch."""
    if BATCH not in layer.runs or len(layer.runs[BATCH].batch) < 2:
        return None
    return float(between_batch(layer.runs[BATCH]).nanmedian())
