"""How each kernel is started: what it is given, in which order, on which grid."""

from functools import lru_cache

import torch
from torch import Tensor

from ..affine import Affine
from ..contract import Moving, Pair, Sizes
from . import backward, forward
from .plan import Device, Plan, make_plan

STAGES = 3
"""Tiles that are on their way to a sum at once."""

MERGED = 64, 16
"""Parts and channels of a tile where lanes are merged."""


def moments(
    x: Tensor,
    share: Tensor | None,
    plan: Plan,
    vectors: Tensor,
    eps: float,
    moving: Moving | None,
) -> None:
    """Compute the moments of every split, merge them, settle; writes the vectors."""
    channels, splits = plan.channels, plan.splits
    parts = torch.empty(4, splits, plan.lanes, dtype=torch.float32, device=x.device)
    share, each = _shared(share, plan)
    grid = plan.blocks, splits
    forward.stats_kernel[grid](x, share, parts, *place(plan), each, STAGES=STAGES, **tile(plan))
    rows, columns = MERGED
    forward.merge_kernel[(-(-channels // columns),)](
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


def normalize(
    x: Tensor,
    vectors: Tensor,
    after: Affine,
    signs: bool,
    plan: Plan,
    eps: float,
    running: Pair | None,
) -> tuple[Tensor, Tensor | None]:
    """Normalize by vectors, or by running statistics; give the output and the signs."""
    weight, bias, residual, _ = after
    y, bits = torch.empty_like(x), _sign_bytes(x, plan, signs)
    forward.normalize_kernel[(plan.blocks, plan.splits)](
        x,
        y,
        residual,
        bits,
        weight,
        bias,
        vectors,
        *(running or (None, None)),
        *place(plan),
        eps,
        _name(after),
        **tile(plan),
    )
    return y, bits


def train(
    x: Tensor,
    vectors: Tensor,
    after: Affine,
    signs: bool,
    plan: Plan,
    eps: float,
    moving: Moving | None,
) -> tuple[Tensor, Tensor | None]:
    """Compute the statistics and normalize, by one kernel; give the output and the signs."""
    weight, bias, residual, _ = after
    y, bits = torch.empty_like(x), _sign_bytes(x, plan, signs)
    forward.train_kernel[(plan.blocks,)](
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
        **tile(plan),
    )
    return y, bits


def reduce(
    grad_y: Tensor, x: Tensor, vectors: Tensor, after: Affine, signs: Tensor | None, plan: Plan
) -> Tensor:
    """Compute Σ dz and Σ dz·x̂ of every channel, (2, C)."""
    channels, splits = plan.channels, plan.splits
    parts = torch.empty(2, splits, plan.lanes, dtype=torch.float32, device=x.device)
    found = torch.empty(2, channels, dtype=torch.float32, device=x.device)
    backward.reduce_kernel[(plan.blocks, splits)](
        grad_y,
        x,
        *_following(after, signs),
        vectors,
        parts,
        *place(plan),
        _name(after),
        STAGES=STAGES,
        **tile(plan),
    )
    rows, columns = MERGED
    backward.total_kernel[(-(-channels // columns),)](
        parts, splits, channels, plan.inner, vectors, found, PARTS=rows, CHANNELS=columns
    )
    return found


def backward_at_once(
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
    backward.backward_kernel[(plan.blocks,)](
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
        **tile(plan),
    )
    return found, grad_x, grad_residual


def elemt(
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
    """Compute the gradients of input and residual from sums that are multiplied by `portion`."""
    grad_x = torch.empty_like(x) if of_x else None
    grad_residual = torch.empty_like(x) if of_residual else None
    if of_x or of_residual:
        backward.elemt_kernel[(plan.blocks, plan.splits)](
            grad_y,
            x,
            *_following(after, signs),
            vectors,
            totals,
            *_shared(share, plan),
            portion,
            grad_x,
            grad_residual,
            *place(plan),
            _name(after),
            **tile(plan),
        )
    return grad_x, grad_residual


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


def place(plan: Plan) -> tuple[int, ...]:
    """Give where the values of a program are, in the order of the kernels."""
    split = plan.split_rows, plan.split_tiles, plan.column_splits
    return *_matrix(plan), *split


def _matrix(plan: Plan) -> tuple[int, ...]:
    return plan.rows, plan.columns // plan.alignment, plan.channels, plan.inner


def tile(plan: Plan) -> dict[str, int]:
    """Give the constants of a kernel, and how it is compiled."""
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


def plan_of(x: Tensor, at: Sizes, tensors: int) -> Plan:
    """Cut x; `tensors` like it are read twice."""
    return _planned(at, x.element_size(), device_of(x.device.index), max(tensors, 1))


_planned = lru_cache(maxsize=512)(make_plan)


@lru_cache
def device_of(index: int | None) -> Device:
    """Say what the plans have to know of a GPU."""
    facts = torch.cuda.get_device_properties(index)
    return Device(facts.multi_processor_count, facts.L2_cache_size)
