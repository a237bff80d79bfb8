"""What running statistics may hold in place of the mean and the variance of the data.

A network that was ported, or whose checkpoint was put together by hand, may have something else
there. Every reading predicts all channels from the data alone. It is believed only where the
channels follow it: nearer than what is found, nearer than a common factor, and one by one, so that
statistics that are merely old are not taken for it.
"""

import dataclasses

import torch
from torch import Tensor

from .distances import MEAN_ERROR, constant, distances
from .evidence import LayerEvidence

FEWEST = 6
"""Channels below which they follow anything by chance."""
OFF = 0.05
"""Error of ln(standard deviation), as found, from which on it is asked what else it may be."""
BETTER = 5.0
"""Times nearer than what is found a reading must be."""
CLOSER = 2.0
"""Times nearer than a common factor it must be."""
ALONG = 0.9
"""Correlation over channels between what is found and what it predicts."""


@dataclasses.dataclass(frozen=True)
class Pairs:
    """Statistics found and those of the data, of channels that change, in float64, (C',)."""

    mean: Tensor
    var: Tensor
    data_mean: Tensor
    data_var: Tensor
    eps: float


@dataclasses.dataclass(frozen=True)
class Reading:
    """One thing that a running variance may hold."""

    what: str
    """In words."""
    error: float
    """Root mean square over channels of ln(found / predicted) / 2."""
    found: float
    """The same error, taken as a variance, without what noise and batches explain."""

    @property
    def times(self) -> float:
        """How many times nearer it is than what is found."""
        return self.found / max(self.error, 1e-12)


def pairs(layer: LayerEvidence) -> Pairs | None:
    """Give what can be compared; None where there are too few channels."""
    mean, var = layer.running_mean, layer.running_var
    data_mean, data_var = layer.population_mean, layer.population_var
    if mean is None or var is None or data_mean is None or data_var is None:
        return None
    still = constant(layer)
    known = torch.stack([mean, var, data_mean, data_var]).isfinite().all(0)
    known &= torch.ones_like(known) if still is None else ~still
    if int(known.sum()) < FEWEST:
        return None
    return Pairs(mean[known], var[known], data_mean[known], data_var[known], layer.eps)


def exchanged(layer: LayerEvidence) -> float | None:
    """Compare what is found with the data's, and with the data's mean and variance exchanged.

    Returns:
        How many times nearer it is exchanged than as it is; None where there is nothing to compare.
    """
    given = pairs(layer)
    if given is None:
        return None
    return _off(given, as_it_is=True) / max(_off(given, as_it_is=False), 1e-12)


def _off(given: Pairs, as_it_is: bool) -> float:
    """The larger of the relative errors of both vectors."""
    mean, var = (given.mean, given.var) if as_it_is else (given.var, given.mean)
    return max(_relative(mean, given.data_mean), _relative(var, given.data_var))


def _relative(found: Tensor, expected: Tensor) -> float:
    return rms(found - expected) / max(rms(expected), 1e-300)


def is_exchanged(layer: LayerEvidence) -> bool:
    """Whether running mean and running variance hold each other."""
    given, times = pairs(layer), exchanged(layer)
    if given is None or times is None or times < BETTER or _off(given, as_it_is=False) > 1 / BETTER:
        return False
    follows = (given.var, given.data_mean), (given.mean, given.data_var)
    return all(correlation(a, b) > ALONG for a, b in follows)


def best_reading(layer: LayerEvidence) -> Reading | None:
    """Give what the running variance is nearest to, beside a variance."""
    given, far = pairs(layer), distances(layer)
    if given is None or far is None or not bool((given.var > 0).all()):
        return None
    found = [_reading(what, given, var, far.log_std) for what, var in _predicted(given).items()]
    return min(found, key=lambda reading: reading.error)


def misread(layer: LayerEvidence) -> Reading | None:
    """Say what the running variance holds, where the mean is right and it is no variance."""
    given, far, best = pairs(layer), distances(layer), best_reading(layer)
    if given is None or far is None or best is None:
        return None
    if far.mean > MEAN_ERROR or far.log_std < OFF or best.times < BETTER:
        return None
    if common(given.var, given.data_var) < CLOSER * best.error:
        return None
    predicted = _predicted(given)[best.what]
    return best if correlation(given.var.log(), predicted.log()) > ALONG else None


def _predicted(given: Pairs) -> dict[str, Tensor]:
    """What the running variance would be; eps is part of what others divide by."""
    var = given.data_var + given.eps
    return {
        "standard deviations": var.sqrt(),
        "inverse standard deviations": var.rsqrt(),
        "inverse variances (precisions)": 1 / var,
        "mean squares, from which the squared mean was not subtracted": var
        + given.data_mean.square(),
    }


def _reading(what: str, given: Pairs, predicted: Tensor, found: float) -> Reading:
    return Reading(what, rms((given.var / predicted).log() / 2), found)


def common(found: Tensor, expected: Tensor) -> float:
    """The error that is left by the best common factor."""
    ratio = (found / expected).log() / 2
    return float(ratio.std(correction=0))


def correlation(x: Tensor, y: Tensor) -> float:
    """Correlate two vectors; 0 where one is constant."""
    x, y = x - x.mean(), y - y.mean()
    size = float(x.square().sum() * y.square().sum()) ** 0.5
    return float((x * y).sum()) / size if size > 0 else 0.0


def rms(x: Tensor) -> float:
    """Root mean square."""
    return float(x.square().mean().sqrt())


def is_something_else(layer: LayerEvidence) -> bool:
    """Whether the statistics hold something else than mean and variance: they are not just old."""
    return is_exchanged(layer) or misread(layer) is not None
