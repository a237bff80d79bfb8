"""One judgement per file: `check(evidence)` gives what it finds."""

from collections.abc import Callable, Iterator

from ...records import Finding
from ..evidence import Evidence
from . import (
    after_activation,
    after_residual,
    bias_before,
    constant_channels,
    dead_channels,
    decayed_affine,
    diverged_replicas,
    dropout_before,
    eps_too_large,
    exchanged_affine,
    exchanged_statistics,
    frozen_halfway,
    half_statistics,
    misread_variance,
    mixed_domains,
    never_updated,
    nonfinite_statistics,
    reversed_momentum,
    shared_layer,
    slow_momentum,
    stale_statistics,
    tiny_batch,
    train_eval_gap,
    uncounted_statistics,
    undivided_statistics,
    unlike_batches,
    unpooled_micro_batches,
    unpooled_replicas,
)

Rule = Callable[[Evidence], Iterator[Finding]]

RULES: tuple[Rule, ...] = (
    train_eval_gap.check,
    nonfinite_statistics.check,
    exchanged_statistics.check,
    misread_variance.check,
    undivided_statistics.check,
    never_updated.check,
    slow_momentum.check,
    stale_statistics.check,
    half_statistics.check,
    diverged_replicas.check,
    tiny_batch.check,
    unpooled_micro_batches.check,
    unpooled_replicas.check,
    unlike_batches.check,
    mixed_domains.check,
    shared_layer.check,
    frozen_halfway.check,
    reversed_momentum.check,
    uncounted_statistics.check,
    exchanged_affine.check,
    dropout_before.check,
    constant_channels.check,
    eps_too_large.check,
    dead_channels.check,
    decayed_affine.check,
    bias_before.check,
    after_activation.check,
    after_residual.check,
)
"""In the order in which findings of one severity and layer are listed."""
