"""Which kernels serve which tensors."""

from types import ModuleType

import torch
from torch import Tensor
from torch.autograd import forward_ad

from .. import checks
from . import aten, composite, cpu, native, triton
from .contract import Kernels

# While compiling, its result is an object that is never None.
_peek = torch._C._functorch.peek_interpreter_stack


def in_transform() -> bool:
    """Say whether a function transform (vmap, grad, jvp) or forward-mode derivative is at work."""
    return not torch.compiler.is_compiling() and (
        torch._C._functorch.peek_interpreter_stack() is not None or forward_ad._current_level >= 0
    )


def own(x: Tensor) -> Kernels | None:
    """Give the fused kernels for the device and the dtype of a tensor; None: there are none."""
    if x.is_cpu:
        return cpu if x.dtype in cpu.DTYPES and native.library() is not None else None
    return triton.kernels(x) if x.is_cuda else None


def fused(x: Tensor, residual: Tensor | None = None) -> Kernels | None:
    """Give the fused kernels that serve an input, and a residual of its shape, in eager code."""
    if (
        checks.can_wait(x)
        and (residual is None or (residual.dtype is x.dtype and checks.can_wait(residual)))
        and not in_transform()
        and x.numel() > 0
    ):
        return own(x)
    return None


def compiled(x: Tensor, residual: Tensor | None = None) -> bool:
    """Say whether a graph that is being compiled is to have fused kernels as operations."""
    return (
        torch.compiler.is_compiling()
        and not checks.is_exporting()
        and not isinstance(_peek(), torch._C._functorch.CInterpreter)
        and (residual is None or residual.dtype is x.dtype)
        and own(x) is not None
    )


def kernels(x: Tensor) -> ModuleType:
    """Choose the module whose `standardize` and `backward` are fastest for tensors like `x`."""
    return aten if (x.is_cpu or x.is_cuda) and not in_transform() else composite
