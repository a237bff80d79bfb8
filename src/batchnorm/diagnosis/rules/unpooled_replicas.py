"""Replicas that each normalize by their own part of the batch."""

from collections.abc import Iterator

from ...records import Finding
from ..evidence import Evidence, LayerEvidence
from ..quantities import effective_batch

ENOUGH = 32.0
"""Effective size of the batch of a replica from which on its statistics will do."""


def check(evidence: Evidence) -> Iterator[Finding]:
    """Find layers that are not synchronized in a training with several replicas."""
    replicas = max(evidence.world_size, evidence.replicas + 1)
    for layer in evidence.layers.values():
        size = effective_batch.of(layer)
        if replicas > 1 and not layer.sync and size is not None and round(size, 6) < ENOUGH:
            yield _finding(layer, replicas, size)


def _finding(layer: LayerEvidence, replicas: int, size: float) -> Finding:
    return Finding(
        rule="unpooled_replicas",
        layer=layer.name,
        severity="warning",
        what=f"each of {replicas} replicas normalizes by its own batch, of {size:.3g} "
        "independent values",
        why="DistributedDataParallel averages gradients, not statistics: the batch that is "
        "normalized by is that of one replica, however many there are.",
        remedy="model = bn.convert(model, *inputs, to='sync').model\n"
        "# or torch.nn.SyncBatchNorm.convert_sync_batchnorm(model), on GPUs",
        source="Peng et al. 2018 (arXiv:1711.07240), section 3.3; torch.nn.SyncBatchNorm",
        numbers={"replicas": float(replicas), "effective_batch": size, "enough": ENOUGH},
    )
