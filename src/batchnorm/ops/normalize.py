"""The phases as one differentiable step each, by the route that suits the tensor.

`residual` is added after scale and shift, and `act` is applied last. Where fused kernels serve, it
is one call of them: in eager code through an autograd Function, in a compiled graph as one
operation. All else within a compiled graph, a function transform or a forward-mode derivative, and
small tensors, go through torch's own autograd; large ones through one autograd Function here, which
keeps the input, vectors (C,) and at most one tensor for the activation.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .. import shapes
from ..moments import mean_and_var
from . import composite, dispatch, fused, library, shares
from .activation import Activation
from .affine import Affine, finish
from .contract import MEAN, VAR, readable

SMALL = 2**16
"""Up to so many values, and without a kernel of ours, PyTorch's own autograd is used: a Function
costs more than the memory it saves is worth (64×64, one thread, forward and backward: 100 µs
against 70 µs)."""


def stats(x: Tensor, share: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Compute mean and variance (correction 0) of every channel; not differentiable.

    Args:
        x: Input (N, C, *S), not empty.
        share: How much each position counts, (N, G, *S), as in `by_shares`; None: all alike.
    """
    x = x.detach()
    own = dispatch.fused(x)
    if own is not None and (share is None or own.WEIGHTED):
        vectors = own.stats(readable(x), share)
        return vectors[MEAN], vectors[VAR]
    if share is not None:
        return mean_and_var(x, shapes.of_groups(share, x))
    # Of PyTorch's kernel, compilers do not know what it returns for a size that is not fixed.
    kernels = composite if torch.compiler.is_compiling() else dispatch.kernels(x)
    mean, var = kernels.stats(x)
    return mean, var


def by_batch(x: Tensor, after: Affine, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """Normalize by the statistics of x; return its mean and variance (correction 1) as well."""
    weight, bias, residual, act = after
    own = dispatch.fused(x, residual)
    if own is not None:
        step = fused.Step(own, eps)
        y = fused.run(x, after, step)
        return y, *_unbiased(step.vectors, x)
    if dispatch.compiled(x, residual):
        y, vectors = library.train(x, after, eps)
        return y, *_unbiased(vectors, x)
    if _by_autograd(x):
        z, mean, var, _ = dispatch.kernels(x).standardize(x, weight, bias, eps)
        if mean.requires_grad or dispatch.in_transform():
            mean, var = mean.detach(), var.detach()
        return finish(z, after, x.dtype), mean, var
    y, mean, var = _apply(x, weight, bias, residual, None, None, None, None, act, eps)
    return y, mean, var


def _unbiased(vectors: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    count = shapes.count_per_channel(x.shape)
    return vectors[MEAN], vectors[VAR] * (count / (count - 1))


def by_shares(
    x: Tensor,
    share: Tensor,
    known: Tensor,
    otherwise: tuple[Tensor, Tensor] | None,
    after: Affine,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Normalize by statistics to which the positions contribute by their shares.

    Args:
        x: Input (N, C, *S).
        share: Weight of each position, (N, G, *S) for G groups of neighboring channels; in each
            the sum is 1, or 0.
        known: Which channels have statistics, bool (C,).
        otherwise: Mean and variance for those that have none; None: they become bias.
        after: What follows.
        eps: Added to the variance.

    Returns:
        Output, mean and variance (correction 0) of x.
    """
    weight, bias, residual, act = after
    own = dispatch.fused(x, residual)
    if own is not None and own.WEIGHTED:
        return shares.normalize(x, shares.Shares(share, known, otherwise, eps), after, own)
    share = shapes.of_groups(share, x)
    if _by_autograd(x):
        z, mean, var, _, _ = composite.standardize_shared(
            x, share, known, weight, bias, eps, otherwise
        )
        return finish(z, after, x.dtype), mean, var
    others = otherwise or (None, None)
    y, mean, var = _apply(x, weight, bias, residual, share, known, *others, act, eps)
    return y, mean, var


def by_constants(x: Tensor, mean: Tensor, var: Tensor, after: Affine, eps: float) -> Tensor:
    """Normalize by statistics that do not depend on x, in their dtype."""
    weight, bias, residual, act = after
    own = dispatch.fused(x, residual) if mean.dtype is torch.float32 else None
    if own is not None:
        return fused.run(x, after, fused.Step(own, eps, constants=(mean, var)))
    if mean.dtype is torch.float32 and dispatch.compiled(x, residual):
        return library.evaluate(x, after, eps, (mean, var))
    if _by_autograd(x):
        z = composite.normalize(x, mean, (var + eps).rsqrt(), weight, bias)
        return finish(z, after, x.dtype)
    # A copy: a training step may change the buffer before the backward pass needs it.
    y: Tensor = _apply(x, weight, bias, residual, None, None, mean.clone(), var, act, eps)
    return y


def _by_autograd(x: Tensor) -> bool:
    # A compiler decides itself what to keep, and a size must not become a condition of its graph.
    return torch.compiler.is_compiling() or x.numel() <= SMALL or dispatch.in_transform()


class _Normalize(torch.autograd.Function):
    """All of the above. Statistics are those of x, or, without shares and given a mean, constants.

    With constants it returns the output only; otherwise also what `by_batch` or `by_shares` does.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        residual: Tensor | None,
        share: Tensor | None,
        known: Tensor | None,
        other_mean: Tensor | None,
        other_var: Tensor | None,
        act: Activation | None,
        eps: float,
    ) -> Tensor | tuple[Tensor, Tensor, Tensor]:
        other = None if other_mean is None or other_var is None else (other_mean, other_var)
        ctx.constant = share is None and other is not None
        if share is not None and known is not None:
            z, mean, var, by, invstd = composite.standardize_shared(
                x, share, known, weight, bias, eps, other
            )
        elif other is not None:
            by, invstd = other[0], (other[1] + eps).rsqrt()
            z = composite.normalize(x, by, invstd, weight, bias)
        else:
            z, mean, var, invstd = dispatch.kernels(x).standardize(x, weight, bias, eps)
            by = mean
        y = finish(z, Affine(residual=residual, act=act), x.dtype)
        ctx.act, ctx.eps = act, eps
        ctx.residual_dtype = None if residual is None else residual.dtype
        from_output = act is not None and act.from_output
        ctx.save_for_backward(
            x,
            weight,
            bias,
            residual if act is not None and not from_output else None,
            share,
            known,
            None if ctx.constant else other_mean,
            None if ctx.constant else other_var,
            by,
            invstd,
            y if from_output else None,
        )
        if ctx.constant:
            return y
        ctx.mark_non_differentiable(mean, var)
        return y, mean, var

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, residual, share, known, other_mean, other_var, mean, invstd, y = (
            ctx.saved_tensors
        )
        act = ctx.act
        kernels = dispatch.kernels(x) if share is None else composite
        if torch.is_grad_enabled():  # create_graph: the statistics are functions of x again
            kernels = composite
            if not ctx.constant:
                other = None if other_mean is None else (other_mean, other_var)
                mean, invstd = _statistics(x, share, known, other, ctx.eps)
        if act is not None:
            if not act.from_output:
                y = composite.normalize(x, mean, invstd, weight, bias)
                y = y if residual is None else y + residual
            grad_output = act.backward(grad_output.to(y.dtype), y)
        needs = ctx.needs_input_grad[:3]
        if ctx.constant:
            grads = composite.backward_constant(grad_output, x, mean, invstd, weight, needs)
        elif share is not None:
            share = torch.where(shapes.as_channels(known, x.dim()), share, 0)
            grads = composite.backward(grad_output, x, mean, invstd, weight, needs, share)
        else:
            grads = kernels.backward(grad_output, x, mean, invstd, weight, needs)
        grad_input, grad_weight, grad_bias = grads
        return (
            grad_input,
            None if grad_weight is None else grad_weight.to(weight.dtype),
            None if grad_bias is None else grad_bias.to(bias.dtype),
            grad_output.to(ctx.residual_dtype) if ctx.needs_input_grad[3] else None,
            *(None,) * 6,
        )


def _statistics(
    x: Tensor,
    share: Tensor | None,
    known: Tensor | None,
    otherwise: tuple[Tensor, Tensor] | None,
    eps: float,
) -> tuple[Tensor, Tensor]:
    """Mean and invstd that normalize x, as functions of it."""
    if share is None or known is None:
        _, mean, _, invstd = composite.standardize(x, None, None, eps)
        return mean, invstd
    *_, mean, invstd = composite.standardize_shared(x, share, known, None, None, eps, otherwise)
    return mean, invstd


_apply: Callable[..., Any] = _Normalize.apply
