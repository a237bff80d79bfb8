"""Normalization by moments that are merged over replicas, as one differentiable step.

Gradients are those of the sum of the losses of all replicas. That of the input needs Σ dy and
Σ dy·x̂ over all of them, in one collective; those of weight and bias stay what this replica adds to
them, as PyTorch has it: DistributedDataParallel averages them with all others.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import shapes
from ..moments import statistics_dtype
from . import cpu, dispatch, fused, recompute
from .activation import Activation
from .affine import Affine, finish
from .merged import Merged, Replicas, merge, merged_with_graph, own_part, total_with_graph

Pair = tuple[Tensor, Tensor]


class Source(NamedTuple):
    """Where the statistics of a batch come from, the values apart.

    Args:
        replicas: The others.
        eps: Added to the variance.
        weights: How much each position counts, (N, 1, *S); None for all alike.
        there: How many are not masked; None for all.
        otherwise: Mean and variance where there is one value in all; None: it becomes bias.
    """

    replicas: Replicas
    eps: float
    weights: Tensor | None = None
    there: Tensor | None = None
    otherwise: Pair | None = None


class By(NamedTuple):
    """What a batch is normalized by.

    Args:
        mean: Mean, (C,).
        low: What it lacks in its dtype, (C,).
        invstd: 1/√(variance + eps), (C,).
        share: How much each position has contributed, one number or (N, 1, *S).
    """

    mean: Tensor
    low: Tensor
    invstd: Tensor
    share: Tensor


def by_autograd(x: Tensor) -> bool:
    """Say whether derivatives are left to torch: within compilers and function transforms."""
    return torch.compiler.is_compiling() or dispatch.in_transform()


def moments(x: Tensor, source: Source) -> Merged:
    """Compute the moments of the batches of all replicas; one collective."""
    if by_autograd(x):
        return merged_with_graph(_part(x, source), source.replicas)
    with torch.no_grad():
        return merge(source.replicas.gather(_part(x, source).row()))


def normalize(x: Tensor, merged: Merged, after: Affine, source: Source) -> Tensor:
    """Normalize by moments that `moments` has given, and do what follows."""
    by = statistics(merged, source)
    if by_autograd(x):
        return finish(_standardize(x, by, after), after, x.dtype)
    weight, bias, residual, act = after
    served = dispatch.fused(x, residual)
    if served and cpu.sizes(x) is None:
        x = x.contiguous()
    y: Tensor = _apply(x, weight, bias, residual, *by, act, source, served)
    if served and y.requires_grad and recompute.is_active():
        fused.offer(y, x, after, _vectors(by))
    return y


def statistics(merged: Merged, source: Source) -> By:
    """Make of moments what normalizes."""
    mean, low, var = merged.mean, merged.low, merged.var
    known = merged.effective > 1
    # The derivative of rsqrt has its cube, which vanishes in float32 from a variance of 1e26 on.
    invstd = (torch.where(known, var, 1) + source.eps).sqrt().reciprocal()
    if source.otherwise is None:
        invstd = torch.where(known, invstd, 0)
    else:
        other_mean, other_var = (t.detach().to(mean.dtype) for t in source.otherwise)
        other_invstd = (other_var + source.eps).rsqrt()
        mean, invstd = (
            torch.where(known, mean, other_mean),
            torch.where(known, invstd, other_invstd),
        )
        low = torch.where(known, low, 0)
    share = merged.count.reciprocal()
    if source.weights is not None:
        share = share * source.weights
    return By(mean, low, invstd, torch.where(known, share, 0))


def _part(x: Tensor, source: Source) -> Any:
    return own_part(x, source.weights, source.there)


def _standardize(x: Tensor, by: By, after: Affine) -> Tensor:
    """Compute x̂·weight + bias in the dtype of the statistics."""
    x_hat = _x_hat(x, by)
    weight, bias = (
        None if t is None else shapes.as_channels(t.to(x_hat.dtype), x.dim())
        for t in (after.weight, after.bias)
    )
    z = x_hat if weight is None else x_hat * weight
    return z if bias is None else z + bias


def _x_hat(x: Tensor, by: By) -> Tensor:
    mean, low, invstd = (shapes.as_channels(t, x.dim()) for t in by[:3])
    return ((x - mean) - low) * invstd


def _vectors(by: By) -> Tensor:
    """Put them together as `cpu.Output` has them; nobody reads the variance."""
    return torch.stack([by.mean, by.low, torch.zeros_like(by.mean), by.invstd])


class _Normalize(torch.autograd.Function):
    """All of it, in eager code."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        residual: Tensor | None,
        mean: Tensor,
        low: Tensor,
        invstd: Tensor,
        share: Tensor,
        act: Activation | None,
        source: Source,
        served: bool,
    ) -> Tensor:
        after, by = Affine(weight, bias, residual, act), By(mean, low, invstd, share)
        kept = None if act is None else residual
        ctx.save_for_backward(x, weight, bias, kept, *by)
        ctx.act, ctx.source, ctx.served = act, source, served
        ctx.residual_dtype = None if residual is None else residual.dtype
        if served:
            return cpu.normalize(x, _vectors(by), after)
        return finish(_standardize(x, by, after), after, x.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, residual, *by = ctx.saved_tensors
        after, needs = Affine(weight, bias, residual, ctx.act), ctx.needs_input_grad[:4]
        if torch.is_grad_enabled():  # create_graph: the statistics are functions of x again
            merged = merged_with_graph(_part(x, ctx.source), ctx.source.replicas)
            found = _gradients(grads[0], x, statistics(merged, ctx.source), after, needs, ctx)
        elif ctx.served and by[3].dim() == 0:
            found = _gradients_at_once(grads[0], x, By(*by), after, needs, ctx)
        else:
            found = _gradients(grads[0], x, By(*by), after, needs, ctx)
        dtypes = (x, weight, bias)
        return (
            *(None if g is None else g.to(t.dtype) for g, t in zip(found, dtypes, strict=False)),
            None if found[3] is None else found[3].to(ctx.residual_dtype),
            *(None,) * 7,
        )


_apply: Callable[..., Any] = _Normalize.apply

Needs = tuple[bool, bool, bool, bool]
Gradients = tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]


def _gradients(
    grad_y: Tensor, x: Tensor, by: By, after: Affine, needs: Needs, ctx: Any
) -> Gradients:
    """Compute them in plain torch, differentiable to any order."""
    grad_z = grad_y.to(statistics_dtype(x))
    x_hat = _x_hat(x, by)
    if after.act is not None:
        grad_z = _before(grad_z, _standardize(x, by, after), after)
    dims = shapes.reduce_dims(x.dim())
    sum_dy, sum_dy_x_hat = grad_z.sum(dims), (grad_z * x_hat).sum(dims)
    grad_x = None
    if needs[0]:
        totals = total_with_graph(torch.cat([sum_dy, sum_dy_x_hat]), ctx.source.replicas)
        all_dy, all_dy_x_hat = (shapes.as_channels(t, x.dim()) for t in totals.chunk(2))
        centered = grad_z - by.share * (all_dy + x_hat * all_dy_x_hat)
        grad_x = centered * shapes.as_channels(_scale(by, after.weight), x.dim())
    return (
        grad_x,
        sum_dy_x_hat if needs[1] else None,
        sum_dy if needs[2] else None,
        grad_z if needs[3] else None,
    )


def _before(grad_y: Tensor, z: Tensor, after: Affine) -> Tensor:
    """Compute the gradient before the activation."""
    act = after.act
    assert act is not None
    z = z if after.residual is None else z + after.residual
    return act.backward(grad_y, act.forward(z) if act.from_output else z)


def _scale(by: By, weight: Tensor | None) -> Tensor:
    return by.invstd if weight is None else by.invstd * weight.to(by.invstd.dtype)


def _gradients_at_once(
    grad_y: Tensor, x: Tensor, by: By, after: Affine, needs: Needs, ctx: Any
) -> Gradients:
    """Compute them by the kernels: sums, collective, and two passes over memory."""
    vectors = _vectors(by)
    if needs[0]:  # what is added below must not be rounded before
        grad_y, x = grad_y.float(), x.float()
        residual = None if after.residual is None else after.residual.float()
        after = after._replace(residual=residual)
    asked = needs[0] or needs[1], needs[0] or needs[2]
    last = (False, *asked, needs[3] and not needs[0])
    _, sum_dy_x_hat, sum_dy, grad_residual = cpu.backward(
        grad_y, x, vectors, after, None, last, True
    )
    grad_x = None
    if needs[0]:
        assert sum_dy is not None and sum_dy_x_hat is not None
        totals = ctx.source.replicas.total(torch.cat([sum_dy, sum_dy_x_hat]))
        whole = (True, False, False, needs[3])
        direct, _, _, grad_residual = cpu.backward(grad_y, x, vectors, after, None, whole, True)
        all_dy, all_dy_x_hat = (totals * -by.share).view(2, -1) * _scale(by, after.weight)
        grad_x = cpu.normalize(x, vectors, Affine(all_dy_x_hat, all_dy, direct))
    return (
        grad_x,
        sum_dy_x_hat if needs[1] else None,
        sum_dy if needs[2] else None,
        grad_residual,
    )
