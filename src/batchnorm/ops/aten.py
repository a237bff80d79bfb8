"""The fused phases by the kernels PyTorch ships for CPU and CUDA: fewer calls, fewer passes.

The contract is in the package's docstring. The CPU kernels sum in float32 where the channel is
innermost, and scale before they shift: both would lose a channel's spread to a large mean. So one
value of the channel is subtracted beforehand, as in `moments.mean_and_var`; what is left has a
mean of at most √count standard deviations.
"""

from typing import TypeVar

import torch
from torch import Tensor

from .. import shapes
from ..moments import statistics_dtype

T = TypeVar("T", Tensor, Tensor | None)

_backward = torch.ops.aten.native_batch_norm_backward.default


def stats(x: Tensor) -> tuple[Tensor, Tensor]:
    """Compute mean and variance (correction 0) of every channel; not differentiable."""
    shift, shifted = _shift(x)
    mean, var = torch.batch_norm_update_stats(shifted, None, None, 0.0)
    return mean + shift, var


def standardize(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Normalize by the statistics of x itself; they follow the result, which is differentiable."""
    shift, shifted = _shift(x)
    dtype = shifted.dtype
    # With momentum 1 the "running" variance becomes this batch's; the mean is not read.
    unused, var = torch.empty_like(shift), torch.zeros_like(shift)
    z, mean, invstd = torch.native_batch_norm(
        shifted, _cast(weight, dtype), _cast(bias, dtype), unused, var, True, 1.0, eps
    )
    return z, mean + shift, var, invstd


def backward(
    grad_z: Tensor,
    x: Tensor,
    mean: Tensor,
    invstd: Tensor,
    weight: Tensor | None,
    needs: tuple[bool, bool, bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Compute the gradients of input, weight and bias; not differentiable."""
    # On the CPU, gradients of half precision would be summed in it where the channel is innermost.
    dtype = mean.dtype if x.is_cpu else x.dtype
    grad_input, grad_weight, grad_bias = _backward(
        _cast(grad_z, dtype),
        shapes.unambiguous(_cast(x, dtype)),
        _cast(weight, mean.dtype),
        None,
        None,
        mean,
        invstd,
        True,
        0.0,
        needs,
    )
    # The kernel returns None for what is not needed.
    return _cast(grad_input, x.dtype), grad_weight, grad_bias


def _shift(x: Tensor) -> tuple[Tensor, Tensor]:
    """Subtract one value of each channel, in the dtype of the statistics."""
    shift = _cast(shapes.typical_values(x.detach()), statistics_dtype(x))
    return shift, shapes.unambiguous(x - shapes.as_channels(shift, x.dim()))


def _cast(tensor: T, dtype: torch.dtype) -> T:
    # Asking first is faster than a call that has nothing to do.
    return tensor if tensor is None or tensor.dtype is dtype else tensor.to(dtype)
