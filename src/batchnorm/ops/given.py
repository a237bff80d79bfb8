"""Normalization by statistics that were computed before, as one differentiable step.

They depend on the input all the same: on this one and on those of other replicas, or on its
positions by their shares. The gradient of the input needs Σ dz and Σ dz·x̂ over all that they are
of; those of weight and bias stay what this input adds to them, as PyTorch has it.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from .. import shapes
from ..moments import statistics_dtype
from . import fused, recompute
from .activation import Activation
from .affine import Affine, finish
from .contract import Gradients, Kernels, readable


class By(NamedTuple):
    """What a batch is normalized by.

    Args:
        mean: Mean, (C,).
        low: What it lacks in its dtype, (C,).
        invstd: 1/√(variance + eps), (C,).
        share: How much each position has contributed, one number or (N, G, *S) for G groups of
            neighboring channels.
    """

    mean: Tensor
    low: Tensor
    invstd: Tensor
    share: Tensor


class Origin(Protocol):
    """Where statistics come from."""

    def again(self, x: Tensor) -> By:
        """Compute them as a function of x."""

    def total(self, sums: Tensor) -> Tensor:
        """Make of the sums (2, C) over this input those over all that the statistics are of."""

    def total_with_graph(self, sums: Tensor) -> Tensor:
        """Do the same so that it can be differentiated."""


def normalize(x: Tensor, by: By, after: Affine, origin: Origin, kernels: Kernels | None) -> Tensor:
    """Normalize, and do what follows; by fused kernels or in plain torch."""
    weight, bias, residual, act = after
    if kernels is not None:
        x = readable(x)
    y: Tensor = _apply(x, weight, bias, residual, *by, act, origin, kernels)
    if kernels is not None and y.requires_grad and recompute.is_active():
        fused.offer(kernels, y, x, after, _vectors(by))
    return y


def standardize(x: Tensor, by: By, after: Affine) -> Tensor:
    """Compute x̂·weight + bias in the dtype of the statistics, in plain torch."""
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
    """Put them together as in `contract`; nobody reads the variance."""
    return torch.stack([by.mean, by.low, torch.zeros_like(by.mean), by.invstd])


class _Given(torch.autograd.Function):
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
        origin: Origin,
        kernels: Kernels | None,
    ) -> Tensor:
        after, by = Affine(weight, bias, residual, act), By(mean, low, invstd, share)
        kept = None if act is None else residual
        ctx.save_for_backward(x, weight, bias, kept, *by)
        ctx.act, ctx.origin, ctx.kernels = act, origin, kernels
        ctx.residual_dtype = None if residual is None else residual.dtype
        if kernels is not None:
            return kernels.normalize(x, _vectors(by), after)
        return finish(standardize(x, by, after), after, x.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, residual, *by = ctx.saved_tensors
        after, needs = Affine(weight, bias, residual, ctx.act), ctx.needs_input_grad[:4]
        if torch.is_grad_enabled():  # create_graph: the statistics are functions of x again
            found = _gradients(grads[0], x, ctx.origin.again(x), after, needs, ctx.origin)
        elif ctx.kernels is not None and (ctx.kernels.WEIGHTED or by[3].dim() == 0):
            found = _gradients_at_once(grads[0], x, By(*by), after, needs, ctx)
        else:
            found = _gradients(grads[0], x, By(*by), after, needs, ctx.origin)
        dtypes = (x, weight, bias)
        return (
            *(None if g is None else g.to(t.dtype) for g, t in zip(found, dtypes, strict=False)),
            None if found[3] is None else found[3].to(ctx.residual_dtype),
            *(None,) * 7,
        )


_apply: Callable[..., Any] = _Given.apply

Needs = tuple[bool, bool, bool, bool]


def _gradients(
    grad_y: Tensor, x: Tensor, by: By, after: Affine, needs: Needs, origin: Origin
) -> Gradients:
    """Compute them in plain torch, differentiable to any order."""
    grad_z = grad_y.to(statistics_dtype(x))
    x_hat = _x_hat(x, by)
    if after.act is not None:
        grad_z = _before(grad_z, standardize(x, by, after), after)
    dims = shapes.reduce_dims(x.dim())
    sum_dy, sum_dy_x_hat = grad_z.sum(dims), (grad_z * x_hat).sum(dims)
    grad_x = None
    if needs[0]:
        totals = origin.total_with_graph(torch.stack([sum_dy, sum_dy_x_hat]))
        all_dy, all_dy_x_hat = (shapes.as_channels(t, x.dim()) for t in totals)
        share = shapes.of_groups(by.share, x)
        centered = grad_z - share * (all_dy + x_hat * all_dy_x_hat)
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
    """Compute them by fused kernels."""
    kernels, vectors = ctx.kernels, _vectors(by)
    if not needs[0]:
        asked = (False, *needs[1:])
        found: Gradients = kernels.backward(grad_y, x, vectors, after, None, asked, True)
        return found
    sums = kernels.sums(grad_y, x, vectors, after)
    totals, share = ctx.origin.total(sums), None if by.share.dim() == 0 else by.share
    if share is None:
        totals = totals * by.share
    given = grad_y, x, vectors, after, totals, share, needs[3]
    grad_x, grad_residual = kernels.input_gradient(*given)
    of_bias, of_weight = sums
    return (
        grad_x,
        of_weight if needs[1] else None,
        of_bias if needs[2] else None,
        grad_residual,
    )
