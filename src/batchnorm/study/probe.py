"""Look inside a network without changing it: the inputs of its activations, and their gradients.

Every look is taken on a copy in which batch normalization uses the statistics of what it is given
(as in training; at initialization the running statistics mean nothing yet) and nothing else, such
as dropout, is in training mode.
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..surgery.kinds import ACTIVATIONS


def twin(model: nn.Module) -> nn.Module:
    """Copy a network for probing: in eval mode but for the batch normalization that trains."""
    copied = copy.deepcopy(model)
    norms = [m for m in copied.modules() if isinstance(m, _BatchNorm) and m.training]
    copied.eval()
    for norm in norms:
        norm.train()
    return copied


@contextmanager
def watched(model: nn.Module) -> Iterator[list[tuple[nn.Module, Tensor]]]:
    """Collect (activation module, its input) of every call inside the block, in order of the calls.

    An activation that works in place must not overwrite what was collected: it works on a copy in
    the graph, which passes gradients through. Random numbers that the network draws inside the
    block, in eval mode too, are put back.
    """
    seen: list[tuple[nn.Module, Tensor]] = []

    def keep(
        module: nn.Module, arguments: tuple[Tensor, ...], named: dict[str, Tensor]
    ) -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
        h = arguments[0] if arguments else named["input"]
        seen.append((module, h))
        return (h.clone() if getattr(module, "inplace", False) else h, *arguments[1:]), {}

    handles = [
        module.register_forward_pre_hook(keep, with_kwargs=True)
        for module in model.modules()
        if isinstance(module, ACTIVATIONS)
    ]
    try:
        with torch.random.fork_rng(devices=[]):
            yield seen
    finally:
        for handle in handles:
            handle.remove()


def activation_inputs(model: nn.Module, x: Tensor) -> list[tuple[nn.Module, Tensor]]:
    """The activation modules and what each gets when the network sees `x`, in order of depth."""
    copied = twin(model)
    with watched(copied) as seen, torch.no_grad():
        copied(x)
    return seen


def by_unit(h: Tensor) -> Tensor:
    """Arrange values as (values, units): a unit is a feature, or a channel at all its positions."""
    return h.detach().movedim(1, -1).reshape(-1, h.shape[1])
