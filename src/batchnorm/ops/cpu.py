"""The contract of fused kernels by the C++ library: float32 and bfloat16 on the CPU.

The input may be dense in any memory format. The contract is in `contract`.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..errors import ShapeError
from . import native
from .affine import Affine
from .contract import (
    INVSTD,
    LOW,
    MEAN,
    SIGNED,
    VAR,
    Gradients,
    Moving,
    Output,
    Pair,
    Sizes,
    alike,
    check_vectors,
    readable,
    sizes,
)

__all__ = [
    "DTYPES",
    "INVSTD",
    "LOOKS",
    "LOW",
    "MEAN",
    "SIGNED",
    "VAR",
    "WEIGHTED",
    "backward",
    "can_move",
    "evaluate",
    "input_gradient",
    "normalize",
    "prepare",
    "readable",
    "sizes",
    "stats",
    "sums",
    "train",
]

Grads = tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None, Tensor | None]

WEIGHTED, LOOKS = False, True

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


def prepare(x: Tensor, after: Affine, at: Sizes | None = None) -> tuple[Sizes, Affine]:
    """Convert and copy what follows where the kernels could not read it."""
    at = dense(x) if at is None else at
    weight, bias, residual, act = after
    channels = at[1]
    readable_weight = None if weight is None else _vector(weight, channels)
    readable_bias = None if bias is None else _vector(bias, channels)
    laid_out = None if residual is None else alike(residual, x)
    if readable_weight is weight and readable_bias is bias and laid_out is residual:
        return at, after
    return at, Affine(readable_weight, readable_bias, laid_out, act)


def stats(x: Tensor, share: Tensor | None = None) -> Tensor:
    """Compute `vectors`, of which the last row has no meaning; all positions count alike."""
    assert share is None
    at = dense(x)
    vectors = torch.empty(4, at[1], dtype=torch.float32)
    _run(native.loaded().stats, packed(x, at, vectors, Affine()))
    return vectors


def train(
    x: Tensor,
    after: Affine,
    eps: float,
    signs: bool = False,
    moving: Moving | None = None,
    at: Sizes | None = None,
) -> Output:
    """Normalize by the statistics of x; not finite ones move nothing, whatever the policy."""
    running, momentum = (None, 0.0) if moving is None else (moving[:2], moving.momentum)
    out = _forward(native.loaded().train, x, after, eps, signs, running, momentum, at)
    if moving is not None and moving.tracked is not None and out.finite:
        moving.tracked.add_(1)
    return out


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
    check_vectors(vectors, at[1])
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
) -> Gradients:
    """Compute the gradients of input, weight, bias and residual."""
    if at is None:
        at, after = prepare(x, after)
        check_vectors(vectors, at[1])
        _check_signs(signs, x, at)
    grad_y = alike(grad_y, x)
    grad_x = torch.empty_like(x) if needs[0] else None
    grad_weight = torch.empty(at[1], dtype=torch.float32) if needs[1] else None
    grad_bias = torch.empty(at[1], dtype=torch.float32) if needs[2] else None
    grad_residual = torch.empty_like(x) if needs[3] else None
    grads = grad_y, grad_x, grad_residual, grad_weight, grad_bias
    call = packed(x, at, vectors, after, signs, None, 0.0, 0.0, (None, None), constant, grads)
    _run(native.loaded().backward, call)
    return grad_x, grad_weight, grad_bias, grad_residual


def sums(grad_y: Tensor, x: Tensor, vectors: Tensor, after: Affine) -> Tensor:
    """Compute Σ dz and Σ dz·x̂ of every channel."""
    needs = (False, True, True, False)
    _, of_weight, of_bias, _ = backward(grad_y, x, vectors, after, None, needs, constant=True)
    assert of_weight is not None
    assert of_bias is not None
    return torch.stack([of_bias, of_weight])


def input_gradient(
    grad_y: Tensor,
    x: Tensor,
    vectors: Tensor,
    after: Affine,
    totals: Tensor,
    share: Tensor | None,
    residual: bool,
) -> tuple[Tensor, Tensor | None]:
    """Compute the gradients of input and residual from sums that are given."""
    assert share is None
    # What is added below must not be rounded before.
    x, grad_y = x.float(), grad_y.float()
    wide = None if after.residual is None else after.residual.float()
    needs = (True, False, False, residual)
    direct, _, _, grad_residual = backward(
        grad_y, x, vectors, after._replace(residual=wide), None, needs, constant=True
    )
    scale = vectors[INVSTD] if after.weight is None else vectors[INVSTD] * after.weight.float()
    of_dz, of_dz_x_hat = -totals * scale
    return normalize(x, vectors, Affine(of_dz_x_hat, of_dz, direct)), grad_residual


def dense(x: Tensor) -> Sizes:
    """Give what `sizes` does; refuse a tensor that is not for the kernels."""
    at = sizes(x) if x.dim() >= 2 and x.is_cpu and x.dtype in DTYPES else None
    if at is None:
        raise ShapeError(
            f"expected a dense float32 or bfloat16 tensor (N, C, ...) on the CPU for a kernel, "
            f"found shape {tuple(x.shape)}, strides {x.stride()}, {x.dtype} on {x.device}"
        )
    return at


def can_move(running: Pair, x: Tensor) -> bool:
    """Say whether `train` can move these running statistics by those of x."""
    mean, var = running
    channels = x.shape[1]
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
        if running is not None and not can_move(running, x):
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
