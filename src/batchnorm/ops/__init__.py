"""The phases of batch normalization: one contract, fulfilled by more than one set of kernels.

Shapes: `x`, `y`, `grad_output`, `grad_input` are (N, C, *S) of one floating dtype, any strides.
Statistics (`mean`, `var`, `invstd`, `sum_dy`, `sum_dy_xmu`) are (C,), float64 for float64 `x`,
else float32. `weight`, `bias` are (C,) of any floating dtype, or None. Every phase returns new
tensors and changes none of its arguments.

    stats(x, share=None) -> mean, var
        Of every channel, correction 0, two passes, never E[x²] − E[x]². `x` is not empty. A
        constant channel has exactly its value for mean and exactly 0 for variance. `share`,
        (N, 1, *S) or like `x`, is how much each position counts: in every channel the sum is 1,
        or 0 where there is nothing to count. None: all alike.

    normalize(x, mean, invstd, weight, bias) -> z
        (x − mean)·invstd·weight + bias in the dtype of the statistics. The mean is subtracted
        first, so that a large one does not cancel.

    standardize(x, weight, bias, eps) -> z, mean, var, invstd
        The two above in one, for at least two values per channel. This `var` is the one that
        running statistics store: correction 1.

    standardize_shared(x, share, known, weight, bias, eps, otherwise) -> z, mean, var, by, invstd
        The same where positions contribute by their shares; this `var` has correction 0. Channels
        that are not `known` (bool) are normalized by `otherwise`, a mean and a variance that are
        constants, or, where that is None, become bias; `by` and `invstd` say what normalized.

    backward_reduce(grad_z, x, mean) -> sum_dy, sum_dy_xmu
        Σ dy and Σ dy·(x − mean) of every channel, dy the gradient before the activation.

    backward_elemt(grad_z, x, mean, invstd, weight, sum_dy, sum_dy_xmu, share) -> grad_input
        (dy − share·(sum_dy + (x − mean)·invstd²·sum_dy_xmu))·invstd·weight; `share` as above, or
        a number: one by the count of values per channel behind the statistics.

    backward(grad_z, x, mean, invstd, weight, needs, share=None)
        -> grad_input, grad_weight, grad_bias
        The two above in one, for statistics of this very `x`. `needs` says which of the three are
        wanted; the others are None. grad_weight and grad_bias have the dtype of the statistics.

`composite` fulfils all of it in plain torch, on any device; every phase is differentiable to any
order. `aten` fulfils `stats`, `standardize` and `backward`, all without shares, with kernels that
PyTorch ships for CPU and CUDA; there `z` is differentiable, and the statistics are constants.
Virtual batches need no kernel of their own: their chunks are folded into channels.

Where all of it is done in one pass over memory, there are no phases. `contract` says what such
fused kernels fulfil; `cpu` does so by the C++ library in csrc/, which `native` loads, and `triton`
by kernels for NVIDIA GPUs. Written against that contract are `fused`, the autograd Function of one
tensor; `given`, that of statistics which are those of more, with `synchronized` for replicas and
`shares` for weighted positions; and `library`, operations that compilers see. `recompute` has
outputs computed again instead of saved.

`normalize` makes of all this what `functional` is composed of; `dispatch` chooses.
"""

from . import aten, composite, cpu, dispatch, fused, library, native, normalize, triton
from .dispatch import kernels

__all__ = [
    "aten",
    "composite",
    "cpu",
    "dispatch",
    "fused",
    "kernels",
    "library",
    "native",
    "normalize",
    "triton",
]
