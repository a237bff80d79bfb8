"""Which kernels serve which tensors."""

from types import ModuleType

import torch
from torch import Tensor
from torch.autograd import forward_ad

from .. import checks
from . import aten, composite, cpu, native

# While compiling, its result is an object that is never None.
_peek = torch._C._functorch.peek_interpreter_stack


def in_transform() -> bool:
    """Say whether a function transform (vmap, grad, jvp) or forward-mode derivative is at work."""
    return not torch.compiler.is_compiling() and (
        torch._C._functorch.peek_interpreter_stack() is not None or forward_ad._current_level >= 0
    )


def fused(x: Tensor, residual: Tensor | None = None) -> bool:
    """Say whether the CPU kernels serve an input, and a residual of its shape."""
    return (
        x.is_cpu
        and x.dtype in cpu.DTYPES
        and (residual is None or (residual.dtype is x.dtype and checks.can_wait(residual)))
        and checks.can_wait(x)
        and not in_transform()
        and x.numel() > 0
        and native.library() is not None
    )


def compiled(x: Tensor, residual: Tensor | None = None) -> bool:
    """Say whether a graph that is being compiled is to have the CPU kernels as operations."""
    return (
        torch.compiler.is_compiling()
        and not checks.is_exporting()
        and not isinstance(_peek(), torch._C._functorch.CInterpreter)
        and x.is_cpu
        and x.dtype in cpu.DTYPES
        and (residual is None or residual.dtype is x.dtype)
        and native.library() is not None
    )


def kernels(x: Tensor) -> ModuleType:
    """Choose the module whose `standardize` and `backward` are fastest for tensors like `x`."""
    return aten if (x.is_cpu or x.is_cuda) and not in_transform() else composite
