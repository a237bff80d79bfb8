"""Paired comparisons over few seeds: intervals, exact tests, and the words for them.

Bootstrap intervals at five seeds cover 83 %, not 95 %; paired t intervals cover 94 to 95 %.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from scipy import stats

from ..records import Effect

MIN_SEEDS = 6
"""Smallest number of seeds at which the exact two-sided sign-flip test can reach 0.05."""

LEVEL = 0.95

SUPPORTED = "supported"
CONTRADICTED = "contradicted"
NO_PRACTICAL_EFFECT = "no practical effect"
INCONCLUSIVE = "inconclusive"
NOT_MEASURABLE = "not measurable"
EXPLORATORY = "exploratory"
DEPENDS = "depends"


def t_interval(differences: Sequence[float]) -> tuple[float, float]:
    """Paired 95 % t interval of the mean difference; infinite for a single seed.

    Example:
        >>> low, high = t_interval([1.0, 2.0, 3.0])
        >>> round(low, 3), round(high, 3)
        (-0.484, 4.484)
    """
    mean, error = _mean_and_error(differences)
    half = error * float(stats.t.ppf((1 + LEVEL) / 2, len(differences) - 1)) if error else 0.0
    return (mean - half, mean + half) if len(differences) > 1 else (-math.inf, math.inf)


def sign_flip_p(differences: Sequence[float]) -> float:
    """Two-sided sign-flip p value of "the differences are symmetric about 0"; exact to 12 seeds.

    Example:
        >>> sign_flip_p([1.0, 2.0, 1.5, 0.5, 3.0, 1.0])
        0.03125
    """
    values = np.asarray(differences, dtype=np.float64)
    if len(values) < 2 or not values.any():
        return 1.0
    result = stats.permutation_test(
        (values,),
        np.mean,
        permutation_type="samples",
        n_resamples=2**12,  # all of them up to 12 seeds
        rng=np.random.default_rng(0),
    )
    return float(result.pvalue)


def decision_p(differences: Sequence[float], threshold: float) -> float:
    """Smallest alpha at which the (1 - alpha) t interval lies wholly beyond or within ±threshold.

    One number for both decisions: with s the standard error and m the mean, the interval clears
    the threshold, on whichever side m is, when t(1 - alpha/2) s < ||m| - threshold|.

    Example:
        >>> round(decision_p([1.0, 2.0, 3.0], threshold=0.0), 4)  # the paired t test's p value
        0.0742
    """
    mean, error = _mean_and_error(differences)
    distance = abs(abs(mean) - threshold)
    if len(differences) < 2:
        return 1.0
    if error == 0:
        return 0.0 if distance > 0 else 1.0
    return float(2 * stats.t.sf(distance / error, len(differences) - 1))


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Holm's step-down adjustment.

    Example:
        >>> holm({"a": 0.01, "b": 0.04, "c": 0.03})
        {'a': 0.03, 'c': 0.06, 'b': 0.06}

    Source: Holm 1979, A simple sequentially rejective multiple test procedure.
    """
    adjusted, running = {}, 0.0
    for rank, (name, p) in enumerate(sorted(p_values.items(), key=lambda item: item[1])):
        running = max(running, min(1.0, (len(p_values) - rank) * p))
        adjusted[name] = running
    return adjusted


def compare(
    label: str, by_seed: Mapping[int, float | None], threshold: float, why_missing: str = ""
) -> Effect:
    """Summarize paired differences and put the verdict word to them, before any adjustment.

    Args:
        label: What was compared.
        by_seed: The difference of each seed, positive in favor of batch normalization; None, or
            what is not finite, where an arm failed. A seed that fails is an outcome: it makes the
            whole comparison not measurable rather than being left out of it.
        threshold: Smallest effect of interest, on the scale of the differences.
        why_missing: The reason to give where a difference is None.

    Returns:
        The effect, with `p_holm` None.
    """
    seeds = tuple(sorted(by_seed))
    differences = tuple(_finite_or_none(by_seed[seed]) for seed in seeds)
    values = [d for d in differences if d is not None]
    if not values or len(values) < len(differences):
        reason = why_missing or "no run of it has finished"
        return Effect(
            label, seeds, differences, *(None,) * 6, _wins(values), NOT_MEASURABLE, reason
        )
    low, high = t_interval(values)
    mean, spread = float(np.mean(values)), float(np.std(values, ddof=1)) if values[1:] else 0.0
    verdict, reason = _word(len(values), mean, decision_p(values, threshold), threshold)
    return Effect(
        label=label,
        seeds=seeds,
        differences=differences,
        mean=mean,
        low=low if math.isfinite(low) else None,
        high=high if math.isfinite(high) else None,
        p_sign_flip=sign_flip_p(values),
        p_holm=None,
        effect_size=mean / spread if spread > 0 else None,
        wins=_wins(values),
        verdict=verdict,
        reason=reason,
    )


def verdict_after_holm(effect: Effect, p_holm: float, threshold: float) -> tuple[str, str]:
    """The word for a headline test and its reason, given its Holm-adjusted p value."""
    mean = effect.mean if effect.mean is not None else 0.0
    word, reason = _word(len(effect.seeds), mean, p_holm, threshold)
    if word == INCONCLUSIVE and effect.verdict not in (INCONCLUSIVE, EXPLORATORY):
        reason = (
            f"alone it would be {effect.verdict!r}, but not after Holm's correction "
            f"over the headline tests (p = {p_holm:.2g})"
        )
    return word, reason


def _word(n: int, mean: float, p: float, threshold: float) -> tuple[str, str]:
    if n < MIN_SEEDS:
        return EXPLORATORY, f"{n} seeds are fewer than {MIN_SEEDS}: no verdict"
    if p > 1 - LEVEL:
        return INCONCLUSIVE, "the interval crosses the smallest effect of interest"
    if abs(mean) < threshold:
        return NO_PRACTICAL_EFFECT, "the interval lies within the smallest effect of interest"
    if mean > 0:
        return SUPPORTED, "the interval lies beyond the smallest effect, in the claimed direction"
    return CONTRADICTED, "the interval lies beyond the smallest effect, in the other direction"


def _mean_and_error(differences: Sequence[float]) -> tuple[float, float]:
    values = np.asarray(differences, dtype=np.float64)
    error = values.std(ddof=1) / math.sqrt(len(values)) if len(values) > 1 else 0.0
    return float(values.mean()), float(error)


def _finite_or_none(difference: float | None) -> float | None:
    return difference if difference is not None and math.isfinite(difference) else None


def _wins(values: Sequence[float]) -> int:
    return sum(value > 0 for value in values)
