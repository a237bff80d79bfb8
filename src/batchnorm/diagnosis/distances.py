"""How far running statistics are from those of the data, beyond what training alone explains.

Three things are no fault of the statistics: an average over few batches is noisy; the variance that
is averaged is that within batches, less than that of the data where batches differ; and dropout
changes a variance in training. Rules ask here, so that each of those is one finding and not two.
"""

import dataclasses

import torch
from torch import Tensor

from .evidence import BATCH, TRAINING, Calls, LayerEvidence
from .quantities.mean_error import mean_error

MEAN_ERROR = 0.3
"""Standard deviations; docs/diagnose_calibration.md."""
LOG_STD_ERROR = 0.2
"""About a fifth."""
NOISE = 4.0
"""Standard deviations of the noise of the average that a channel may be off by."""
OFTEN = 0.5
"""Share of the batches in which a channel has to change, to be compared."""
ROUNDING = 8.0
"""Units in the last place of float32 that a constant channel may spread by."""


@dataclasses.dataclass(frozen=True)
class Distances:
    """Root mean squares over channels; a channel that is off by no more than noise counts as 0."""

    mean: float
    """In standard deviations."""
    log_std: float

    @property
    def is_far(self) -> bool:
        """Whether one of the two is beyond its threshold."""
        return self.mean > MEAN_ERROR or self.log_std > LOG_STD_ERROR


def distances(layer: LayerEvidence) -> Distances | None:
    """Compare running statistics with those of the data; None where one of them lacks."""
    mean, var = layer.running_mean, layer.running_var
    known, known_var = layer.population_mean, layer.population_var
    if mean is None or var is None or known is None or known_var is None:
        return None
    shift = mean_error(mean, known, known_var, layer.eps).abs()
    low = high = _log_std(known_var, layer.eps)
    for run in (BATCH, TRAINING):
        if run in layer.runs:
            seen = layer.runs[run].pooled()
            shift = torch.fmin(shift, mean_error(mean, seen.mean, known_var, layer.eps).abs())
            high = torch.fmax(high, _log_std(seen.var(correction=1), layer.eps))
            low = torch.fmin(low, _log_std(_within(layer.runs[run]), layer.eps))
    log_std = _log_std(var, layer.eps)
    return beyond_noise(layer, shift, torch.fmax(low - log_std, log_std - high).clamp(min=0))


def beyond_noise(layer: LayerEvidence, shift: Tensor, ratio: Tensor) -> Distances:
    """Average errors of channels that are not noise, and not of channels that rarely change.

    Args:
        layer: The layer.
        shift: |error of the mean| in standard deviations, (C,).
        ratio: |error of the logarithm of the standard deviation|, (C,).
    """
    calls = layer.runs.get(BATCH)
    counted = torch.ones_like(shift, dtype=torch.bool)
    if calls is not None:
        # The statistics of a pixel that is hardly ever lit are those of when it last was.
        counted = _changes(calls.minimum, calls.maximum).double().mean(0) >= OFTEN
    return Distances(
        *(
            _rms(torch.where(error > NOISE * noise, error, 0)[counted])
            for error, noise in zip((shift, ratio), _noise(layer), strict=True)
        )
    )


def constant(layer: LayerEvidence) -> Tensor | None:
    """Say which channels of the input are constant, bool (C,); None where that was not seen."""
    calls = layer.runs.get(BATCH)
    if calls is None or not float(calls.count.sum(0).max()) > 1:
        return None
    return ~_changes(calls.minimum.amin(0), calls.maximum.amax(0))


def _changes(low: Tensor, high: Tensor) -> Tensor:
    """Whether values between two ends are more than one, rounded."""
    largest = torch.maximum(low.abs(), high.abs())
    return ~(high - low <= ROUNDING * torch.finfo(torch.float32).eps * largest)


def _noise(layer: LayerEvidence) -> tuple[Tensor | float, Tensor | float]:
    """Estimate the noise of the moving average from how much the batches at hand differ."""
    calls, momentum = layer.runs.get(BATCH), layer.momentum
    if calls is None or len(calls.mean) < 3 or not momentum:
        return 0.0, 0.0
    keeps = momentum / (2 - momentum)
    std = (calls.var.mean(0) + layer.eps).sqrt()
    noises = calls.mean.var(0) / std.square(), _log_std(calls.var, layer.eps).var(0)
    mean, log_std = ((keeps * noise).sqrt().nan_to_num() for noise in noises)
    return mean, log_std


def _within(calls: Calls) -> Tensor:
    """Variance within batches, correction 1, as the running variance averages it."""
    unbiased = calls.var * calls.count / (calls.count - 1)
    return unbiased.where(unbiased.isfinite(), torch.nan).nanmean(0)


def _log_std(var: Tensor, eps: float) -> Tensor:
    return (var + eps).log() / 2


def _rms(x: Tensor) -> float:
    x = x[x.isfinite()]
    return float(x.square().mean().sqrt()) if x.numel() else 0.0
