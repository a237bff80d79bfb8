"""The contract of fused kernels by Triton: float32, bfloat16 and float16; see `contract`.

Nothing here waits for the GPU, so all of it can be part of a CUDA graph.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache, wraps
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
from . import DTYPES
from . import backward as _backward
from . import forward as _forward
from .plan import Device, Plan, make_plan

WEIGHTED, LOOKS = True, False

STAGES = 3
"""Tiles that are on their way to a sum at once."""

MERGED = 64, 16
"""Parts and channels of a tile where lanes are merged."""


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
    plan = _plan(x, at, 1)
    vectors = torch.empty(4, at[1], dtype=torch.float32, device=x.device)
    _moments(x, share, plan, vectors, 1.0, None)
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
    plan = _plan(x, at, 1)
    vectors = torch.empty(4, at[1], dtype=torch.float32, device=x.device)
    if not plan.alone:
        _moments(x, None, plan, vectors, eps, moving)
        y, bits = _normalized(x, vectors, after, signs, plan, eps, None)
        return Output(y, vectors, bits, None)
    y, bits = torch.empty_like(x), _sign_bytes(x, plan, signs)
    weight, bias, residual, _ = after
    _forward.train_kernel[(plan.blocks,)](
        x,
        y,
        residual,
        bits,
        weight,
        bias,
        vectors,
        *_moving(moving),
        *_matrix(plan),
        eps,
        _name(after),
        STAGES=STAGES,
        **_tile(plan),
    )
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
    plan = _plan(x, at, 0)
    vectors = torch.empty(4, at[1], dtype=torch.float32, device=x.device)
    mean, var = (_vector(vector, at[1], x) for vector in running)
    y, bits = _normalized(x, vectors, after, signs, plan, eps, (mean, var))
    return Output(y, vectors, bits, None)


@_on_its_device
def normalize(x: Tensor, vectors: Tensor, after: Affine) -> Tensor:
    """Compute once more, bit for bit, what `train` or `evaluate` has given."""
    at, after = prepare(x, after)
    check_vectors(vectors, at[1])
    return _normalized(x, vectors, after, False, _plan(x, at, 0), 0.0, None)[0]


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
    plan = _plan(x, at, 2 + (after.residual is not None))
    sums: Tensor | None
    grad_x: Tensor | None
    if through and plan.alone:
        sums, grad_x, grad_residual = _at_once(*given, plan, needs[3])
    else:
        sums = _sums(*given, plan) if through or needs[1] or needs[2] else None
        portion = 1 / (at[0] * at[2])
        totals = sums if through else None
        elsewhere = totals, None, portion, needs[0], needs[3]
        grad_x, grad_residual = _elemt(*given, plan, *elsewhere)
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
    return _sums(alike(grad_y, x), x, vectors, after, None, _plan(x, at, 2))


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
    plan = _plan(x, at, 0)
    given = alike(grad_y, x), x, vectors, after, None, plan, totals.contiguous()
    grad_x, grad_residual = _elemt(*given, share, 1.0, True, residual)
    assert grad_x is not None
    return grad_x, grad_residual


def _moments(
    x: Tensor,
    share: Tensor | None,
    plan: Plan,
    vectors: Tensor,
    eps: float,
    moving: Moving | None,
) -> None:
    channels, splits = plan.channels, plan.splits
    parts = torch.empty(4, splits, plan.lanes, dtype=torch.float32, device=x.device)
    share, each = _shared(share, plan)
    grid = plan.blocks, splits
    _forward.stats_kernel[grid](x, share, parts, *_place(plan), each, STAGES=STAGES, **_tile(plan))
    rows, columns = MERGED
    _forward.merge_kernel[(-(-channels // columns),)](
        parts,
        splits,
        channels,
        plan.inner,
        vectors,
        eps,
        *_moving(moving),
        PARTS=rows,
        CHANNELS=columns,
    )


def _normalized(
    x: Tensor,
    vectors: Tensor,
    after: Affine,
    signs: bool,
    plan: Plan,
    eps: float,
    running: Pair | None,
) -> tuple[Tensor, Tensor | None]:
    weight, bias, residual, _ = after
    y, bits = torch.empty_like(x), _sign_bytes(x, plan, signs)
    _forward.normalize_kernel[(plan.blocks, plan.splits)](
        x,
        y,
        residual,
        bits,
        weight,
        bias,
        vectors,
        *(running or (None, None)),
        *_place(plan),
        eps,
        _name(after),
        **_tile(plan),
    )
    return y, bits


def _sums(
    grad_y: Tensor, x: Tensor, vectors: Tensor, after: Affine, signs: Tensor | None, plan: Plan
) -> Tensor:
    channels, splits = plan.channels, plan.splits
    parts = torch.empty(2, splits, plan.lanes, dtype=torch.float32, device=x.device)
    found = torch.empty(2, channels, dtype=torch.float32, device=x.device)
    _backward.reduce_kernel[(plan.blocks, splits)](
        grad_y,
        x,
        *_following(after, signs),
        vectors,
        parts,
        *_place(plan),
        _name(after),
        STAGES=STAGES,
        **_tile(plan),
    )
    rows, columns = MERGED
    _backward.total_kernel[(-(-channels // columns),)](
        parts, splits, channels, plan.inner, vectors, found, PARTS=rows, CHANNELS=columns
    )
    return found


def _at_once(
    grad_y: Tensor,
    x: Tensor,
    vectors: Tensor,
    after: Affine,
    signs: Tensor | None,
    plan: Plan,
    residual: bool,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Compute the sums, and the gradients of input and residual, by one kernel."""
    found = torch.empty(2, plan.channels, dtype=torch.float32, device=x.device)
    grad_x, grad_residual = torch.empty_like(x), torch.empty_like(x) if residual else None
    count = x.numel() // plan.channels
    _backward.backward_kernel[(plan.blocks,)](
        grad_y,
        x,
        *_following(after, signs),
        vectors,
        found,
        1 / count,
        grad_x,
        grad_residual,
        *_matrix(plan),
        _name(after),
        STAGES=STAGES,
        **_tile(plan),
    )
    return found, grad_x, grad_residual


def _elemt(
    grad_y: Tensor,
    x: Tensor,
    vectors: Tensor,
    after: Affine,
    signs: Tensor | None,
    plan: Plan,
    totals: Tensor | None,
    share: Tensor | None,
    portion: float,
    of_x: bool,
    of_residual: bool,
) -> tuple[Tensor | None, Tensor | None]:
    grad_x = torch.empty_like(x) if of_x else None
    grad_residual = torch.empty_like(x) if of_residual else None
    if of_x or of_residual:
        _backward.elemt_kernel[(plan.blocks, plan.splits)](
            grad_y,
            x,
            *_following(after, signs),
            vectors,
            totals,
            *_shared(share, plan),
            portion,
            grad_x,
            grad_residual,
            *_place(plan),
            _name(after),
            **_tile(plan),
        )
    return grad_x, grad_residual


def _prepared(x: Tensor, after: Affine, at: Sizes | None) -> tuple[Sizes, Affine]:
    return (at, after) if at is not None else prepare(x, after)


def _following(after: Affine, signs: Tensor | None) -> tuple[Tensor | None, ...]:
    """Give what follows in the order of the kernels; with signs, nobody reads the residual."""
    residual = after.residual if signs is None and after.act is not None else None
    return residual, signs, after.weight, after.bias


def _name(after: Affine) -> str | None:
    return None if after.act is None else after.act.name


def _moving(moving: Moving | None) -> tuple[Tensor | float | None, ...]:
    if moving is None:
        return None, None, None, None, 0.0
    return moving.mean, moving.var, moving.missed, moving.tracked, moving.momentum


def _shared(share: Tensor | None, plan: Plan) -> tuple[Tensor | None, int]:
    """Give shares in the order of the values, and how many channels have the same."""
    if share is None:
        return None, plan.channels
    each = plan.channels // share.shape[1]
    innermost = not plan.planes and plan.inner == 1
    return (share.movedim(1, -1) if innermost else share).contiguous(), each


def _place(plan: Plan) -> tuple[int, ...]:
    split = plan.split_rows, plan.split_tiles, plan.column_splits
    return *_matrix(plan), *split


def _matrix(plan: Plan) -> tuple[int, ...]:
    return plan.rows, plan.columns // plan.alignment, plan.channels, plan.inner


def _tile(plan: Plan) -> dict[str, int]:
    return {
        "PLANES": plan.planes,
        "TR": plan.tile_rows,
        "TC": plan.tile_columns,
        "ALIGN": plan.alignment,
        "num_warps": plan.warps,
        "enable_fp_fusion": False,  # what is written is computed, and on Triton 3.9 nothing warned
    }


def _sign_bytes(x: Tensor, plan: Plan, wanted: bool) -> Tensor | None:
    return torch.empty(plan.sign_bytes, dtype=torch.uint8, device=x.device) if wanted else None


def _plan(x: Tensor, at: Sizes, tensors: int) -> Plan:
    """Cut x; `tensors` like it are read twice."""
    return _planned(at, x.element_size(), device_of(x.device.index), max(tensors, 1))


_planned = lru_cache(maxsize=512)(make_plan)


@lru_cache
def device_of(index: int | None) -> Device:
    """Say what the plans have to know of a GPU."""
    facts = torch.cuda.get_device_properties(index)
    return Device(facts.multi_processor_count, facts.L2_cache_size)


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
