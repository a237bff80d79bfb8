"""How many independent values a statistic rests on.

    n_eff = (N/s)·σ²/s²_m,  at most the number of values per channel

N samples are normalized in s statistics (virtual batches), σ² is the variance of the values within
a batch and s²_m that of the samples' means. Values of one image are correlated: the mean of a
batch then varies as if it were of n_eff independent values. Without spatial axes n_eff = N/s. It
lies between N/s, where all values of a sample are alike, and the number of values. The median over
channels is taken.

Source: Kish 1965, Survey Sampling, section 5.4 (the design effect of clusters), solved for the
number of values.
"""

import torch
from torch import Tensor

from ...records import Measure
from ..evidence import BATCH, Calls, LayerEvidence

MEASURE = Measure(
    name="effective_batch",
    title="effective batch",
    meaning="Independent values a statistic rests on: samples per statistic times the variance of "
    "the values over the variance of the samples' means; median over channels.",
    source="Kish 1965, Survey Sampling, section 5.4",
    unit="values",
    calm=64.0,
    alarm=2.0,
    logarithmic=True,
)


def effective_batch(calls: Calls) -> Tensor:
    """Compute it for every channel.

    Returns:
        (C,); NaN where no batch has two samples, or a channel does not vary.
    """
    samples = calls.samples[:, None]
    weight = (samples - 1).clamp(min=0)
    rest = (calls.count - 1).clamp(min=0)
    of_samples = _average(calls.sample_var, weight)
    of_values = _average(calls.var * calls.count / rest, rest)
    statistics = torch.tensor(calls.statistics, dtype=torch.float64)[:, None]
    parts = (samples / statistics).mean(0)
    values = (calls.count / statistics).mean(0)
    return torch.minimum(parts * of_values / of_samples, values)


def _average(values: Tensor, weight: Tensor) -> Tensor:
    """Average over calls; those that know nothing do not count."""
    known = values.isfinite() & (weight > 0)
    weight = torch.where(known, weight, 0)
    return torch.where(known, values, 0).mul(weight).sum(0) / weight.sum(0)


def of(layer: LayerEvidence) -> float | None:
    """Compute it for a layer that normalizes by the batch."""
    if BATCH not in layer.runs or layer.mode != "learning":
        return None
    return float(effective_batch(layer.runs[BATCH]).nanmedian())
