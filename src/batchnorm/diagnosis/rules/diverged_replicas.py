"""Replicas whose running statistics differ."""

import math
from collections.abc import Iterator

from torch import Tensor

from ...records import Finding
from ..distances import Distances, beyond_noise
from ..evidence import Evidence, LayerEvidence
from ..quantities.log_std_error import log_std_error
from ..quantities.mean_error import mean_error

FAR = 0.1
"""Standard deviations, or logarithm of their ratio, beyond the noise. Replicas that share their
statistics have 0; docs/diagnose_calibration.md."""


def check(evidence: Evidence) -> Iterator[Finding]:
    """Find layers that are not the same in all replicas."""
    for layer in evidence.layers.values():
        found = [apart(layer, *replica) for replica in layer.replicas]
        mean = max((far.mean for far in found), default=0.0)
        log_std = max((far.log_std for far in found), default=0.0)
        if max(mean, log_std) > FAR:
            yield _finding(layer, mean, log_std)


def apart(layer: LayerEvidence, mean: Tensor, var: Tensor) -> Distances:
    """Measure how far the statistics of another replica are, beyond the noise of both."""
    if layer.running_mean is None or layer.running_var is None:
        return Distances(0.0, 0.0)
    shift = mean_error(mean, layer.running_mean, layer.running_var, layer.eps).abs()
    ratio = log_std_error(var, layer.running_var, layer.eps).abs()
    if not bool(shift.isfinite().all() and ratio.isfinite().all()):
        return Distances(math.inf, math.inf)
    return beyond_noise(layer, shift, ratio)


def _finding(layer: LayerEvidence, mean: float, log_std: float) -> Finding:
    return Finding(
        rule="diverged_replicas",
        layer=layer.name,
        severity="warning",
        what=f"the running mean of another replica is {mean:.2g} standard deviations away, its "
        f"standard deviation a factor of {math.exp(min(log_std, 700)):.2g}",
        why="Which statistics are saved, and how good eval() is, depends on the replica. Buffers "
        "stay apart with broadcast_buffers=False, and the data of replicas differ.",
        remedy="model = bn.convert(model, *inputs, to='sync').model  # from now on\n"
        "bn.recalibrate(model, batches, sync=True)  # for this one: the same on all replicas",
        source="torch.nn.parallel.DistributedDataParallel, broadcast_buffers",
        numbers={
            "mean_error": mean,
            "log_std_error": log_std,
            "replicas": float(len(layer.replicas)),
        },
    )
