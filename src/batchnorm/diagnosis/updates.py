"""How often a training step updates the running statistics of a layer."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from .gradients import gradients_of
from .lending import lent
from .passes import Way


def updates_of_step(
    way: Way, batch: Any, layers: Mapping[str, _BatchNorm], parameters: Mapping[str, Tensor]
) -> dict[str, int]:
    """Make one training step, without moving a parameter, and see what the layers have counted.

    The backward pass belongs to it: under checkpointing it runs forward passes of its own.
    """
    with lent(way.model), torch.set_grad_enabled(bool(parameters)):
        counters = {n: layer.num_batches_tracked for n, layer in layers.items()}
        before = {n: int(t) for n, t in counters.items() if t is not None}
        _, value = way.run(batch)
        if value is not None and parameters and value.requires_grad:
            gradients_of(value, list(parameters.values()))
        after = {n: int(layers[n].num_batches_tracked or 0) for n in before}
    return {name: after[name] - before[name] for name in before}
