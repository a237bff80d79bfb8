"""Every phase in plain torch: any device, any dtype, differentiable to any order.

The contract is in the package's docstring.
"""

import torch
from torch import Tensor

from .. import shapes
from ..moments import center
from ..moments import mean_and_var as stats

__all__ = [
    "backward",
    "backward_constant",
    "backward_elemt",
    "backward_reduce",
    "normalize",
    "standardize",
    "standardize_shared",
    "stats",
]

Grads = tuple[Tensor | None, Tensor | None, Tensor | None]


def normalize(
    x: Tensor, mean: Tensor, invstd: Tensor, weight: Tensor | None, bias: Tensor | None
) -> Tensor:
    """Compute (x − mean)·invstd·weight + bias."""
    return _affine(x - shapes.as_channels(mean, x.dim()), invstd, weight, bias)


def standardize(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Normalize by the statistics of x itself; they follow the result."""
    xmu, mean, var = center(x)
    invstd = _invstd(var, eps)
    count = shapes.count_per_channel(x.shape)
    return _affine(xmu, invstd, weight, bias), mean, var * (count / (count - 1)), invstd


def standardize_shared(
    x: Tensor,
    share: Tensor,
    known: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    otherwise: tuple[Tensor, Tensor] | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Normalize by the statistics of x, to which positions contribute by their shares."""
    xmu, mean, var = center(x, share)
    if otherwise is None:
        invstd = torch.where(known, _invstd(var, eps), 0)
        return _affine(xmu, invstd, weight, bias), mean, var, mean, invstd
    other_mean, other_var = otherwise
    from_other = x - shapes.as_channels(other_mean, x.dim())
    xmu = torch.where(shapes.as_channels(known, x.dim()), xmu, from_other)
    invstd = _invstd(torch.where(known, var, other_var), eps)
    return _affine(xmu, invstd, weight, bias), mean, var, mean.where(known, other_mean), invstd


def backward_reduce(grad_z: Tensor, x: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
    """Sum dy and dy·(x − mean) over every channel."""
    dims = shapes.reduce_dims(x.dim())
    xmu = x - shapes.as_channels(mean, x.dim())
    return grad_z.sum(dims, dtype=mean.dtype), (grad_z * xmu).sum(dims)


def backward_elemt(
    grad_z: Tensor,
    x: Tensor,
    mean: Tensor,
    invstd: Tensor,
    weight: Tensor | None,
    sum_dy: Tensor,
    sum_dy_xmu: Tensor,
    share: float | Tensor,
) -> Tensor:
    """Compute the gradient of the input from the two sums."""
    ndim = x.dim()
    slope = shapes.as_channels(invstd * invstd * sum_dy_xmu, ndim)
    xmu = x - shapes.as_channels(mean, ndim)
    through_statistics = (shapes.as_channels(sum_dy, ndim) + xmu * slope) * share
    centered = grad_z - through_statistics
    return (centered * shapes.as_channels(_scale(invstd, weight), ndim)).to(x.dtype)


def backward(
    grad_z: Tensor,
    x: Tensor,
    mean: Tensor,
    invstd: Tensor,
    weight: Tensor | None,
    needs: tuple[bool, bool, bool],
    share: Tensor | None = None,
) -> Grads:
    """Compute the gradients of input, weight and bias for statistics of this very x."""
    sum_dy, sum_dy_xmu = backward_reduce(grad_z, x, mean)
    grad_input = None
    if needs[0]:
        shares = 1 / shapes.count_per_channel(x.shape) if share is None else share
        grad_input = backward_elemt(grad_z, x, mean, invstd, weight, sum_dy, sum_dy_xmu, shares)
    return grad_input, sum_dy_xmu * invstd if needs[1] else None, sum_dy if needs[2] else None


def backward_constant(
    grad_z: Tensor,
    x: Tensor,
    mean: Tensor,
    invstd: Tensor,
    weight: Tensor | None,
    needs: tuple[bool, bool, bool],
) -> Grads:
    """Compute the same gradients where the statistics do not depend on x."""
    grad_input = grad_weight = grad_bias = None
    if needs[0]:
        grad_input = (grad_z * shapes.as_channels(_scale(invstd, weight), x.dim())).to(x.dtype)
    if needs[1] or needs[2]:
        sum_dy, sum_dy_xmu = backward_reduce(grad_z, x, mean)
        grad_weight = sum_dy_xmu * invstd if needs[1] else None
        grad_bias = sum_dy if needs[2] else None
    return grad_input, grad_weight, grad_bias


def _invstd(var: Tensor, eps: float) -> Tensor:
    # The derivative of rsqrt has its cube, which vanishes in float32 from a variance of 1e26 on.
    return (var + eps).sqrt().reciprocal()


def _affine(xmu: Tensor, invstd: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    scale = shapes.as_channels(_scale(invstd, weight), xmu.dim())
    if bias is None:
        return xmu * scale
    return shapes.as_channels(bias.to(xmu.dtype), xmu.dim()).addcmul(xmu, scale)


def _scale(invstd: Tensor, weight: Tensor | None) -> Tensor:
    return invstd if weight is None else invstd * weight.to(invstd.dtype)
