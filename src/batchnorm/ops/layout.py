"""The memory format of gradients."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .. import shapes
from . import dispatch


def keep_format(x: Tensor) -> Tensor:
    """Return x; its gradient will have its memory format, whatever is made of it in between."""
    if not x.requires_grad or dispatch.in_transform():
        return x
    memory_format = shapes.memory_format(x)
    if memory_format is torch.contiguous_format:
        return x
    return _apply(x, memory_format)


class _KeepFormat(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, memory_format: torch.memory_format) -> Tensor:
        ctx.memory_format = memory_format
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0].contiguous(memory_format=ctx.memory_format), None


_apply: Callable[..., Tensor] = _KeepFormat.apply
