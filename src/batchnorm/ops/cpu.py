"""The phases by kernels of our own: float32 and bfloat16 on the CPU, dense in any memory format.

They also take what follows the normalization, in one pass over memory: a residual and an
activation. The statistics of a batch are one tensor (4, C) in float32, `vectors`: mean, what it
lacks in float32, variance (correction 0), and 1/√(variance + eps). With the second, the output is
right at any ratio of mean to standard deviation.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import ShapeError
from . import native
from .affine import Affine

Sizes = tuple[int, int, int]
"""(outer, channels, inner): how the kernels see a dense tensor, inner fastest."""

Pair = tuple[Tensor, Tensor]
"""A mean and a variance."""

Grads = tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None, Tensor | None]

DTYPES = {torch.float32: 0, torch.bfloat16: 1}
ACTIVATIONS = {
    "relu": 1,
    "leaky_relu": 2,
    "elu": 3,
    "silu": 4,
    "gelu": 5,
    "hardswish": 6,
    "sigmoid": 7,
    "tanh": 8,
}
SIGNED = frozenset({"relu", "leaky_relu"})
"""Activations whose slope is known from the sign of their input."""

MEAN, LOW, VAR, INVSTD = range(4)
"""Rows of `vectors`."""


class Output(NamedTuple):
    """What a forward gives.

    Args:
        y: Output, with the strides of the input.
        vectors: The statistics that have normalized it, (4, C).
        signs: Where the activation let pass, one bit per value, in an order of the kernels' own;
            None where it was not asked for.
        finite: Whether all statistics are finite.
    """

    y: Tensor
    vectors: Tensor
    signs: Tensor | None
    finite: bool


def sizes(x: Tensor) -> Sizes | None:
    """Give the sizes of a tensor (N, C, *S) for the kernels; None where it is not dense.

    Example:
        >>> x = torch.empty(2, 3, 4, 5)
        >>> sizes(x), sizes(x.to(memory_format=torch.channels_last)), sizes(x[..., ::2])
        ((2, 3, 20), (40, 3, 1), None)
    """
    outer, channels = x.shape[:2]
    if x.is_contiguous():
        return outer, channels, x.numel() // (outer * channels) if outer * channels else 0
    if x.movedim(1, -1).is_contiguous():
        return x.numel() // channels, channels, 1
    return None


def readable(x: Tensor) -> Tensor:
    """Give x, or, where it is not dense, a copy."""
    return x if sizes(x) is not None else x.contiguous()


def prepare(x: Tensor, after: Affine, at: Sizes | None = None) -> tuple[Sizes, Affine]:
    """Convert and copy what follows where the kernels could not read it.

    Args:
        x: Input.
        after: What follows.
        at: What `sizes` has given for an x that is known to be for the kernels; None: it is asked.

    Returns:
        The sizes of x, and what follows.

    Raises:
        ShapeError: A tensor is not for the kernels.
    """
    at = dense(x) if at is None else at
    weight, bias, residual, act = after
    channels = at[1]
    readable_weight = None if weight is None else _vector(weight, channels)
    readable_bias = None if bias is None else _vector(bias, channels)
    alike = None if residual is None else _alike(residual, x)
    if readable_weight is weight and readable_bias is bias and alike is residual:
        return at, after
    return at, Affine(readable_weight, readable_bias, alike, act)


def stats(x: Tensor) -> tuple[Tensor, bool]:
    """Compute the statistics of every channel.

    Args:
        x: Input (N, C, *S), not empty.

    Returns:
        `vectors` for an eps of 0, and whether all are finite.
    """
    at = dense(x)
    vectors = torch.empty(4, at[1], dtype=torch.float32)
    return vectors, _run(native.loaded().stats, packed(x, at, vectors, Affine()))


def train(
    x: Tensor,
    after: Affine,
    eps: float,
    signs: bool = False,
    running: Pair | None = None,
    momentum: float = 0.0,
    at: Sizes | None = None,
) -> Output:
    """Normalize by the statistics of x.

    Args:
        x: Input (N, C, *S), not empty.
        after: What follows.
        eps: Added to the variance.
        signs: Whether `backward` is to have signs instead of the residual.
        running: Mean and variance (correction 1) to move, vectors (C,) in float32; they stay as
            they are where `finite` comes out False.
        momentum: Weight of the new value.
        at: What `prepare` has given, with `after`; None: nothing is prepared.
    """
    function = native.loaded().train
    return _forward(function, x, after, eps, signs, running, momentum, at)


def evaluate(
    x: Tensor,
    after: Affine,
    eps: float,
    running: Pair,
    signs: bool = False,
    at: Sizes | None = None,
) -> Output:
    """Normalize by a mean and a variance that are given, vectors (C,)."""
    mean, var = (_vector(vector, x.shape[1]) for vector in running)
    return _forward(native.loaded().evaluate, x, after, eps, signs, (mean, var), 0.0, at)


def normalize(x: Tensor, vectors: Tensor, after: Affine) -> Tensor:
    """Compute once more, bit for bit, what `train` or `evaluate` has given."""
    at, after = prepare(x, after)
    _check_vectors(vectors, at)
    y = torch.empty_like(x)
    _run(native.loaded().normalize, packed(x, at, vectors, after, None, y))
    return y


def backward(
    grad_y: Tensor,
    x: Tensor,
    vectors: Tensor,
    after: Affine,
    signs: Tensor | None,
    needs: Sequence[bool],
    constant: bool,
    at: Sizes | None = None,
) -> tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]:
    """Compute the gradients of input, weight, bias and residual.

    Args:
        grad_y: Gradient of the output.
        x: Input.
        vectors: What the forward has given.
        after: What followed; the residual is not needed where there are signs.
        signs: What the forward has given.
        needs: Which four gradients are wanted; the others are None.
        constant: Whether the statistics did not depend on x.
        at: What `prepare` has given, with `after`; None: nothing is prepared.
    """
    if at is None:
        at, after = prepare(x, after)
        _check_vectors(vectors, at)
        _check_signs(signs, x, at)
    grad_y = _alike(grad_y, x)
    grad_x = torch.empty_like(x) if needs[0] else None
    grad_weight = torch.empty(at[1], dtype=torch.float32) if needs[1] else None
    grad_bias = torch.empty(at[1], dtype=torch.float32) if needs[2] else None
    grad_residual = torch.empty_like(x) if needs[3] else None
    grads = grad_y, grad_x, grad_residual, grad_weight, grad_bias
    call = packed(x, at, vectors, after, signs, None, 0.0, 0.0, (None, None), constant, grads)
    _run(native.loaded().backward, call)
    return grad_x, grad_weight, grad_bias, grad_residual


def dense(x: Tensor) -> Sizes:
    """Give what `sizes` does; refuse a tensor that is not for the kernels."""
    at = sizes(x) if x.dim() >= 2 and x.is_cpu and x.dtype in DTYPES else None
    if at is None:
        raise ShapeError(
            f"expected a dense float32 or bfloat16 tensor (N, C, ...) on the CPU for a kernel, "
            f"found shape {tuple(x.shape)}, strides {x.stride()}, {x.dtype} on {x.device}"
        )
    return at


def can_move(running: Pair, channels: int) -> bool:
    """Say whether `train` can move these running statistics."""
    mean, var = running
    return _is_vector(mean, channels) and _is_vector(var, channels)


def _forward(
    function: native.Function,
    x: Tensor,
    after: Affine,
    eps: float,
    with_signs: bool,
    running: Pair | None,
    momentum: float,
    at: Sizes | None,
) -> Output:
    if at is None:
        at, after = prepare(x, after)
        if running is not None and not can_move(running, at[1]):
            raise ShapeError(
                f"expected a mean and a variance of {at[1]} float32 values each for a kernel, found"
                f" {', '.join(f'{tuple(t.shape)}, {t.dtype} on {t.device}' for t in running)}"
            )
    vectors, y = torch.empty(4, at[1], dtype=torch.float32), torch.empty_like(x)
    signs = torch.empty(_sign_words(x, at), dtype=torch.int16) if with_signs else None
    call = packed(x, at, vectors, after, signs, y, eps, momentum, running or (None, None))
    return Output(y, vectors, signs, _run(function, call))


def _sign_words(x: Tensor, at: Sizes) -> int:
    words: int = native.loaded().sign_words(*at, DTYPES[x.dtype])
    return words


def _check_vectors(vectors: Tensor, at: Sizes) -> None:
    if vectors.shape != (4, at[1]) or vectors.dtype is not torch.float32:
        raise ShapeError(
            f"expected the vectors of {at[1]} channels, (4, {at[1]}) in float32, "
            f"found {tuple(vectors.shape)}, {vectors.dtype}"
        )


def _check_signs(signs: Tensor | None, x: Tensor, at: Sizes) -> None:
    if signs is not None and signs.numel() != _sign_words(x, at):
        raise ShapeError(
            f"expected signs of an input {tuple(x.shape)}, {_sign_words(x, at)} words, "
            f"found {signs.numel()}"
        )


def packed(
    x: Tensor,
    at: Sizes,
    vectors: Tensor,
    after: Affine,
    signs: Tensor | None = None,
    y: Tensor | None = None,
    eps: float = 0.0,
    momentum: float = 0.0,
    running: Pair | tuple[None, None] = (None, None),
    constant: bool = False,
    grads: Grads = (None, None, None, None, None),
) -> bytes:
    """Make what a function of the library takes; nothing is checked, and all must outlive the call.

    Args:
        x: Input.
        at: Its sizes.
        vectors: Statistics to write or to read.
        after: What follows, as the kernels can read it.
        signs: To write or to read.
        y: Output to write.
        eps: Added to the variance.
        momentum: Weight of the new value.
        running: Running statistics.
        constant: For the backward pass: whether the statistics did not depend on x.
        grads: Gradients: of the output, to read; of input, residual, weight and bias, to write.
    """
    weight, bias, residual, act = after
    row = at[1] * 4  # bytes
    mean = vectors.data_ptr()
    running_mean, running_var = running
    grad_y, grad_x, grad_residual, grad_weight, grad_bias = grads
    return native.pack(
        *at,
        DTYPES[x.dtype],
        0 if act is None else ACTIVATIONS[act.name],
        torch.get_num_threads(),
        constant,
        eps,
        momentum,
        native.loaded().parallel_for,
        x.data_ptr(),
        0 if residual is None else residual.data_ptr(),
        0 if weight is None else weight.data_ptr(),
        0 if bias is None else bias.data_ptr(),
        mean,
        mean + row,
        mean + 2 * row,
        mean + 3 * row,
        0 if running_mean is None else running_mean.data_ptr(),
        0 if running_var is None else running_var.data_ptr(),
        0 if signs is None else signs.data_ptr(),
        0 if y is None else y.data_ptr(),
        0 if grad_y is None else grad_y.data_ptr(),
        0 if grad_x is None else grad_x.data_ptr(),
        0 if grad_residual is None else grad_residual.data_ptr(),
        0 if grad_weight is None else grad_weight.data_ptr(),
        0 if grad_bias is None else grad_bias.data_ptr(),
    )


def _run(function: native.Function, call: bytes) -> bool:
    """Call a kernel; say whether all statistics it has computed are finite."""
    code = function(call)
    if code != native.OK and code != native.NOT_FINITE:
        native.refuse(code)
    return code == native.OK


def _vector(vector: Tensor, channels: int) -> Tensor:
    if _is_vector(vector, channels):
        return vector
    if vector.shape != (channels,):
        raise ShapeError(
            f"expected a vector of {channels} values for a kernel, found shape "
            f"{tuple(vector.shape)}"
        )
    return vector.detach().to("cpu", torch.float32).contiguous()


def _is_vector(vector: Tensor, channels: int) -> bool:
    return (
        vector.dtype is torch.float32
        and vector.numel() == channels
        and vector.dim() == 1
        and vector.is_contiguous()
        and vector.is_cpu
    )


def _alike(tensor: Tensor, x: Tensor) -> Tensor:
    """Give it the dtype and the strides of x."""
    if tensor.shape != x.shape:
        raise ShapeError(
            f"expected a tensor like the input for a kernel, {tuple(x.shape)}, found shape "
            f"{tuple(tensor.shape)}"
        )
    # Where a size is 1, its stride has no meaning.
    same = tensor.stride() == x.stride() or (tensor.is_contiguous() and x.is_contiguous())
    if same and tensor.dtype is x.dtype and tensor.is_cpu:
        return tensor
    return torch.empty_like(x).copy_(tensor.detach())
