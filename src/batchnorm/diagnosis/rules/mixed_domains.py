"""Batches of two kinds, each alike within, in one set of running statistics."""

from collections.abc import Iterator

import torch
from torch import Tensor

from ...records import Finding
from ..evidence import BATCH, Calls, Evidence, LayerEvidence
from ..quantities.between_batch import between_batch

RATIO = 4.0
"""As in `unlike_batches`."""
SHARE = 0.9
"""Of the variance between batches that lies between two groups. Random points on a line have 2/π
= 0.64, as the halves of a bell curve; docs/diagnose_calibration.md."""
FEWEST = 8
"""Batches; among few, two groups are found in anything."""


def check(evidence: Evidence) -> Iterator[Finding]:
    """Find layers whose batches fall into two groups."""
    for layer in evidence.layers.values():
        groups = split(layer) if layer.is_learning else None
        if groups is not None:
            yield _finding(layer, groups)


def split(layer: LayerEvidence) -> tuple[int, int, float] | None:
    """Split the batches in two.

    Returns:
        Sizes of the groups, and the share of what the batches differ by that lies between them;
        None where they are no groups.
    """
    calls = layer.runs.get(BATCH)
    if calls is None or len(calls.batch) < FEWEST or layer.calls > 1:
        return None
    if not float(between_batch(calls).nanmedian()) > RATIO:
        return None
    low, share = along_largest(calls)
    return (low, len(calls.batch) - low, share) if share > SHARE else None


def along_largest(calls: Calls) -> tuple[int, float]:
    """Split the batches in two along the direction in which their means differ most.

    Returns:
        As `two_groups`.
    """
    std = calls.sample_var.nanmean(0).sqrt()
    means = calls.sample_mean / std
    means = means[:, means.isfinite().all(0)]
    if not means.numel():
        return 0, 0.0
    direction = torch.linalg.svd(means - means.mean(0), full_matrices=False)[2][0]
    return two_groups(means @ direction)


def two_groups(values: Tensor) -> tuple[int, float]:
    """Split numbers in two so that most of their variance lies between the groups.

    Example:
        >>> two_groups(torch.tensor([1.0, 9.0, 1.0, 9.0, 9.0]))
        (2, 1.0)
    """
    sorted_ = values.sort().values - values.mean()
    total = float(sorted_.square().sum())
    # At least two in each: one alone may be an outlier.
    sizes = range(2, len(values) - 1)
    shares = [
        float(sorted_[:n].sum().square() / n + sorted_[n:].sum().square() / (len(values) - n))
        for n in sizes
    ]
    if not shares or not total > 0:
        return 0, 0.0
    best = max(range(len(shares)), key=shares.__getitem__)
    return sizes[best], shares[best] / total


def _finding(layer: LayerEvidence, groups: tuple[int, int, float]) -> Finding:
    low, high, share = groups
    return Finding(
        rule="mixed_domains",
        layer=layer.name,
        severity="warning",
        what=f"its batches are of two kinds ({low} and {high} of them): {share:.0%} of what their "
        "means differ by most lies between the two",
        why="Each batch is normalized by its own kind in training, and every sample by the average "
        "of both in evaluation, which is neither. (a) Two domains in turns; (b) real and "
        "generated, or clean and adversarial batches; (c) two sources with scales of their own.",
        remedy="bn.recalibrate(model, batches_of_one_domain)  # for use on that domain, or\n"
        "# mix both in every batch, or give each its own layers",
        source="Wu & Johnson 2021 (arXiv:2105.07576), section 5; Xie et al. 2020 "
        "(arXiv:1911.09665), section 4; Li et al. 2016 (arXiv:1603.04779)",
        numbers={"one": float(low), "other": float(high), "between": share, "threshold": SHARE},
    )
