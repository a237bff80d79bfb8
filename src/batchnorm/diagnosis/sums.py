"""Running statistics that are sums: still to be divided by 1 − dⁿ, or divided once too often.

As in `readings`, every kind predicts all channels from the data, and is believed only where they
follow it one by one.
"""

import dataclasses

from torch import Tensor

from .distances import distances
from .evidence import LayerEvidence
from .readings import (
    ALONG,
    BETTER,
    CLOSER,
    OFF,
    Pairs,
    common,
    correlation,
    is_something_else,
    pairs,
    rms,
)

SHARE = 0.02
"""Below this share of the data's statistics there are none yet: those of a new layer."""
STEEP = 0.3
"""How far the slope over channels may be off, relative to what is predicted."""


@dataclasses.dataclass(frozen=True)
class Sum:
    """What the running statistics are."""

    share: float
    """1 − dⁿ."""
    kind: str
    """"zero": both began at 0. "one": the variance began at 1. "over": the variance began at 1, and
    was divided as if it had begun at 0."""


def share(layer: LayerEvidence) -> float | None:
    """Fit one share of the data's mean to the running mean, over channels.

    a = Σ μ_run μ / σ² / Σ μ² / σ²

    Returns:
        a: 1 if it is the mean; 1 − dⁿ if it is a sum that was not divided; None where there are too
        few channels, or all means are 0.
    """
    given = pairs(layer)
    if given is None:
        return None
    std = (given.data_var + given.eps).sqrt()
    x, y = given.data_mean / std, given.mean / std
    total = float(x.square().sum())
    return float((x * y).sum()) / total if total > 1e-6 * len(x) else None


def nearer(layer: LayerEvidence) -> float | None:
    """Say how many times nearer the running variance is to that of a sum than as it is found."""
    given, far = pairs(layer), distances(layer)
    if given is None or far is None or not bool((given.var > 0).all()):
        return None
    errors = [_error(given, var) for _, var in _predicted(given, share(layer))]
    return far.log_std / max(min(errors), 1e-12) if errors else None


def undivided(layer: LayerEvidence) -> Sum | None:
    """Say whether the running statistics are sums, and of what kind."""
    given, far = pairs(layer), distances(layer)
    if given is None or far is None or not bool((given.var > 0).all()):
        return None
    if is_something_else(layer) or max(far.mean, far.log_std) <= OFF:
        return None
    for found, predicted in _predicted(given, share(layer)):
        if found.kind == "over":
            fits = far.mean <= OFF and common(given.var, given.data_var) > CLOSER * _error(
                given, predicted
            )
        else:
            fits = far.mean > OFF and _means_follow(given, found.share)
        if fits and _follows(given, predicted, 1.0 if found.kind == "over" else found.share):
            return found
    return None


def _predicted(given: Pairs, share: float | None) -> list[tuple[Sum, Tensor]]:
    """What the running variance would be, for the kinds that are possible at all."""
    found = []
    if share is not None and SHARE < share < 1 - SHARE:
        part = share * given.data_var
        found += [(Sum(share, "zero"), part), (Sum(share, "one"), part + 1 - share)]
    rest = float((given.var - given.data_var).median())
    if rest > 0:
        found.append((Sum(1 / (1 + rest), "over"), given.data_var + rest))
    return found


def _means_follow(given: Pairs, share: float) -> bool:
    std = (given.data_var + given.eps).sqrt()
    missing, left = ((given.mean - k * given.data_mean) / std for k in (1.0, share))
    return rms(missing) > BETTER * rms(left)


def _follows(given: Pairs, predicted: Tensor, slope: float) -> bool:
    """Whether the variance is near what is predicted, and grows with the data's as it should."""
    x, y = given.data_var - given.data_var.mean(), given.var - given.var.mean()
    grows = float((x * y).sum()) / max(float(x.square().sum()), 1e-300)
    as_found = max(_error(given, given.data_var), OFF)
    is_near = _error(given, predicted) * BETTER < as_found
    is_steep = abs(grows / slope - 1) < STEEP
    return is_near and is_steep and correlation(given.var, predicted) > ALONG


def _error(given: Pairs, predicted: Tensor) -> float:
    return rms((given.var / predicted).log() / 2)
