"""The contract of fused kernels by Triton: float32, bfloat16 and float16; see `contract`.

Nothing here waits for the GPU, so all of it can be part of a CUDA graph.
"""

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Concatenate, ParamSpec, TypeVar

import torch
from torch import Tensor

from ...errors import ShapeError
from ..affine import Affine
from ..contract import (
    Gradients,
    Moving,
    Output,
    Pair,
    Sizes,
    alike,
    check_vectors,
    sizes,
)
from . import DTYPES, calls
from .calls import plan_of

WEIGHTED, LOOKS = True, False

P = ParamSpec("P")
R = TypeVar("R")


def _on_its_device(function: Callable[Concatenate[Tensor, P], R]) -> Callable[..., R]:
    """Start kernels where the first tensor is, which need not be the current device."""

    @wraps(function)
    def run(first: Tensor, *args: P.args, **kwargs: P.kwargs) -> R:
        if not first.is_cuda or first.device.index == torch.cuda.current_device():
            return function(first, *args, **kwargs)
        with torch.cuda.device(first.device):
            return function(first, *args, **kwargs)

    return run


def prepare(x: Tensor, after: Affine, at: Sizes | None = None) -> tuple[Sizes, Affine]:
    """Convert and copy what follows where the kernels could not read it."""
    at = _dense(x) if at is None else at
    weight, bias, residual, act = after
    readable_weight = None if weight is None else _vector(weight, at[1], x)
    readable_bias = None if bias is None else _vector(bias, at[1], x)
    laid_out = None if residual is None else alike(residual, x)
    if readable_weight is weight and readable_bias is bias and laid_out is residual:
        return at, after
    return at, Affine(readable_weight, readable_bias, laid_out, act)


def can_move(running: Pair, x: Tensor) -> bool:
    """Say whether `train` can move these running statistics by those of x."""
    channels = x.shape[1]
    return all(
        t.dtype is torch.float32
        and t.shape == (channels,)
        and t.is_contiguous()
        and t.device == x.device
        for t in running
    )


@_on_its_device
def stats(x: Tensor, share: Tensor | None = None) -> Tensor:
    """Compute `vectors`, of which the last row has no meaning."""
    at = _dense(x)
    plan = plan_of(x, at, 1)
    vectors = torch.empty(4, at[1], dtype=torch.float32, device=x.device)
    calls.moments(x, share, plan, vectors, 1.0, None)
    return vectors


@_on_its_device
def train(
    x: Tensor,
    after: Affine,
    eps: float,
    signs: bool = False,
    moving: Moving | None = None,
    at: Sizes | None = None,
) -> Output:
    """Normalize by the statistics of x; the running ones follow their policy."""
    at, after = _prepared(x, after, at)
    plan = plan_of(x, at, 1)
    vectors = torch.empty(4, at[1], dtype=torch.float32, device=x.device)
    if plan.alone:
        y, bits = calls.train(x, vectors, after, signs, plan, eps, moving)
    else:
        calls.moments(x, None, plan, vectors, eps, moving)
        y, bits = calls.normalize(x, vectors, after, signs, plan, eps, None)
    return Output(y, vectors, bits, None)


@_on_its_device
def evaluate(
    x: Tensor,
    after: Affine,
    eps: float,
    running: Pair,
    signs: bool = False,
    at: Sizes | None = None,
) -> Output:
    """Normalize by a mean and a variance that are given, vectors (C,)."""
    at, after = _prepared(x, after, at)
    plan = plan_of(x, at, 0)
    vectors = torch.empty(4, at[1], dtype=torch.float32, device=x.device)
    mean, var = (_vector(vector, at[1], x) for vector in running)
    y, bits = calls.normalize(x, vectors, after, signs, plan, eps, (mean, var))
    return Output(y, vectors, bits, None)


@_on_its_device
def normalize(x: Tensor, vectors: Tensor, after: Affine) -> Tensor:
    """Compute once more, bit for bit, what `train` or `evaluate` has given."""
    at, after = prepare(x, after)
    check_vectors(vectors, at[1])
    return calls.normalize(x, vectors, after, False, plan_of(x, at, 0), 0.0, None)[0]


@_on_its_device
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
    at, after = _prepared(x, after, at)
    grad_y = alike(grad_y, x)
    given = grad_y, x, vectors, after, signs
    through = needs[0] and not constant
    plan = plan_of(x, at, 2 + (after.residual is not None))
    sums: Tensor | None
    grad_x: Tensor | None
    if through and plan.alone:
        sums, grad_x, grad_residual = calls.backward_at_once(*given, plan, needs[3])
    else:
        sums = calls.reduce(*given, plan) if through or needs[1] or needs[2] else None
        portion = 1 / (at[0] * at[2])
        totals = sums if through else None
        elsewhere = totals, None, portion, needs[0], needs[3]
        grad_x, grad_residual = calls.elemt(*given, plan, *elsewhere)
    of_bias, of_weight = (None, None) if sums is None else sums.unbind()
    return (
        grad_x,
        of_weight if needs[1] else None,
        of_bias if needs[2] else None,
        grad_residual,
    )


@_on_its_device
def sums(grad_y: Tensor, x: Tensor, vectors: Tensor, after: Affine) -> Tensor:
    """Compute Σ dz and Σ dz·x̂ of every channel."""
    at, after = prepare(x, after)
    return calls.reduce(alike(grad_y, x), x, vectors, after, None, plan_of(x, at, 2))


@_on_its_device
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
    at, after = prepare(x, after)
    plan = plan_of(x, at, 0)
    given = alike(grad_y, x), x, vectors, after, None, plan, totals.contiguous()
    grad_x, grad_residual = calls.elemt(*given, share, 1.0, True, residual)
    assert grad_x is not None
    return grad_x, grad_residual


def _prepared(x: Tensor, after: Affine, at: Sizes | None) -> tuple[Sizes, Affine]:
    return (at, after) if at is not None else prepare(x, after)


def _dense(x: Tensor) -> Sizes:
    at = sizes(x) if x.dim() >= 2 and x.dtype in DTYPES else None
    if at is None:
        raise ShapeError(
            f"expected a dense float32, bfloat16 or float16 tensor (N, C, ...) for a kernel, "
            f"found shape {tuple(x.shape)}, strides {x.stride()}, {x.dtype}"
        )
    return at


def _vector(vector: Tensor, channels: int, x: Tensor) -> Tensor:
    if vector.shape != (channels,) or vector.device != x.device:
        raise ShapeError(
            f"expected a vector of {channels} values on {x.device} for a kernel, found shape "
            f"{tuple(vector.shape)} on {vector.device}"
        )
    wide = vector.dtype is torch.float64  # the others are read as they are
    return (vector.detach().float() if wide else vector).contiguous()
