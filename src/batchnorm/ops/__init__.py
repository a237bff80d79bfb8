"""The phases of batch normalization: one contract, fulfilled by more than one set of kernels.

Shapes: `x`, `y`, `grad_output`, `grad_input` are (N, C, *S) of one floating dtype, any strides.
Statistics (`mean`, `var`, `invstd`, `sum_dy`, `sum_dy_xmu`) are (C,), float64 for float64 `x`,
else float32. `weight`, `bias` are (C,) of any floating dtype, or None. Every phase returns new
tensors and changes none of its arguments.

    stats(x) -> mean, var
        Of every channel, correction 0, two passes, never E[x²] − E[x]². `x` is not empty. A
        constant channel has exactly its value for mean and exactly 0 for variance.

    normalize(x, mean, invstd, weight, bias) -> z
        (x − mean)·invstd·weight + bias in the dtype of the statistics. The mean is subtracted
        first, so that a large one does not cancel.

    standardize(x, weight, bias, eps) -> z, mean, var, invstd
        The two above in one, for at least two values per channel. This `var` is the one that
        running statistics store: correction 1.

    backward_reduce(grad_z, x, mean) -> sum_dy, sum_dy_xmu
        Σ dy and Σ dy·(x − mean) of every channel, dy the gradient before the activation.

    backward_elemt(grad_z, x, mean, invstd, weight, sum_dy, sum_dy_xmu, count) -> grad_input
        (dy − sum_dy/count − (x − mean)·invstd²·sum_dy_xmu/count)·invstd·weight; `count` is the
        number of values per channel behind the statistics.

    backward(grad_z, x, mean, invstd, weight, needs) -> grad_input, grad_weight, grad_bias
        The two above in one, for statistics of this very `x`. `needs` says which of the three are
        wanted; the others are None. grad_weight and grad_bias have the dtype of the statistics.

`composite` fulfils all of it in plain torch, on any device; every phase is differentiable to any
order. `aten` fulfils `stats`, `standardize` and `backward` with kernels that PyTorch ships for CPU
and CUDA; there `z` is differentiable, and the statistics are constants.
Virtual batches need no kernel of their own: their chunks are folded into channels.
"""

from types import ModuleType

from torch import Tensor

from . import aten, composite


def kernels(x: Tensor) -> ModuleType:
    """Choose the module whose `standardize` and `backward` are fastest for tensors like `x`."""
    return aten if x.is_cpu or x.is_cuda else composite


def describe() -> dict[str, str]:
    """Say in words which kernels serve which tensors, for `batchnorm env`."""
    return {
        "kernels, CPU and CUDA": "PyTorch's own, on shifted inputs",
        "kernels, other devices": "plain PyTorch operations",
    }


__all__ = ["aten", "composite", "describe", "kernels"]
