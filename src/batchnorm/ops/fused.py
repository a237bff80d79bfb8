"""Normalization with all that follows as one differentiable step by fused kernels.

It keeps for the backward pass the input and vectors (C,), and, where there is a residual, one bit
per value, or, where a bit is not enough to know the slope of the activation, the residual.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from . import composite, recompute
from .affine import Affine, finish
from .contract import INVSTD, MEAN, SIGNED, Kernels, Moving, Pair, Sizes, sizes


class NotFiniteError(Exception):
    """Running statistics were to be moved, and a mean or variance is not finite."""


class Step:
    """How a forward is to be done, and what it has found.

    Args:
        kernels: By what.
        eps: Added to the variance.
        moving: Running statistics to move.
        constants: The mean and variance to normalize by, (C,) in float32; None: those of the input.
    """

    __slots__ = ("after", "at", "constants", "eps", "kernels", "moving", "vectors")

    at: Sizes
    """As `Kernels.prepare` gives them, with `after`."""
    after: Affine

    vectors: Tensor
    """As in `contract.Output`, once the forward has run."""

    def __init__(
        self,
        kernels: Kernels,
        eps: float,
        moving: Moving | None = None,
        constants: Pair | None = None,
    ) -> None:
        self.kernels, self.eps = kernels, eps
        self.moving, self.constants = moving, constants

    def forward(self, x: Tensor, signs: bool) -> tuple[Tensor, Tensor | None]:
        """Compute the output, and the signs if they are asked for."""
        if self.constants is not None:
            out = self.kernels.evaluate(x, self.after, self.eps, self.constants, signs, self.at)
        else:
            out = self.kernels.train(x, self.after, self.eps, signs, self.moving, self.at)
            # Before anything is saved: whoever counts what is saved shall not see two attempts.
            if self.moving is not None and out.finite is False:
                raise NotFiniteError
        self.vectors = out.vectors
        return out.y, out.signs


def run(x: Tensor, after: Affine, step: Step) -> Tensor:
    """Normalize a tensor that the kernels serve; `step` then has the statistics.

    Raises:
        NotFiniteError: The running statistics could not be moved; nothing has changed.
    """
    weight, bias, residual, act = after
    at = sizes(x)
    if at is None:
        x = x.contiguous()
    step.at, step.after = step.kernels.prepare(x, after, at)
    if not torch.is_grad_enabled() or not (
        x.requires_grad
        or (weight is not None and weight.requires_grad)
        or (bias is not None and bias.requires_grad)
        or (residual is not None and residual.requires_grad)
    ):
        return step.forward(x, False)[0]
    y: Tensor = _apply(x, weight, bias, residual, act, step)
    if recompute.is_active():
        offer(step.kernels, y, x, after, step.vectors)
    return y


def offer(kernels: Kernels, y: Tensor, x: Tensor, after: Affine, vectors: Tensor) -> None:
    """Let what saves y keep what y can be computed from instead."""
    # Clones: a training step may change them before the backward pass needs them.
    weight, bias = (t if t is None else t.detach().clone() for t in after[:2])
    act = after.act  # `after` would keep the residual, and with it what came before

    def make(x: Tensor, residual: Tensor | None) -> Tensor:
        return kernels.normalize(x, vectors, Affine(weight, bias, residual, act))

    recompute.offer(y, (x, after.residual), make)


class _Fused(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        residual: Tensor | None,
        act: Any,
        step: Step,
    ) -> Tensor:
        has_slope = residual is not None and act is not None
        signed = has_slope and act.name in SIGNED
        y, signs = step.forward(x, signed)
        kept = residual if has_slope and not signed else None
        ctx.save_for_backward(x, weight, bias, kept, step.vectors, signs)
        ctx.act, ctx.eps, ctx.constant = act, step.eps, step.constants is not None
        ctx.kernels = step.kernels
        # What was converted is not kept; it is converted again.
        given = weight, bias, residual
        same = all(a is b for a, b in zip(step.after, given, strict=False))
        ctx.at = step.at if same else None
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad_y,) = grads
        x, weight, bias, residual, vectors, signs = ctx.saved_tensors
        after = Affine(weight, bias, residual, ctx.act)
        needs = ctx.needs_input_grad[:4]
        if torch.is_grad_enabled():  # create_graph
            grad = _differentiable(grad_y, x, after, vectors, signs, needs, ctx)
        else:
            given = grad_y, x, vectors, after, signs, needs, ctx.constant, ctx.at
            grad = ctx.kernels.backward(*given)
        return (
            grad[0],
            _as(grad[1], weight),
            _as(grad[2], bias),
            grad[3],
            None,
            None,
        )


# What is called on the way there looks for function transforms; `dispatch.fused` has seen to that.
_apply: Callable[..., Any] = super(torch.autograd.Function, _Fused).apply


def _as(grad: Tensor | None, vector: Tensor | None) -> Tensor | None:
    if grad is None or vector is None or grad.dtype is vector.dtype:
        return grad
    return grad.to(vector.dtype)


def _differentiable(
    grad_y: Tensor,
    x: Tensor,
    after: Affine,
    vectors: Tensor,
    signs: Tensor | None,
    needs: tuple[bool, bool, bool, bool],
    ctx: Any,
) -> tuple[Tensor | None, ...]:
    """Compute the gradients by operations that can be differentiated again."""
    if ctx.constant:
        mean, invstd = vectors[MEAN], vectors[INVSTD]
    else:
        _, mean, _, invstd = composite.standardize(x, None, None, ctx.eps)
    grad_z = _before(grad_y, x, after, vectors, signs, (mean, invstd), ctx.kernels)
    backward = composite.backward_constant if ctx.constant else composite.backward
    grads = backward(grad_z, x, mean, invstd, after.weight, needs[:3])
    return *grads, grad_z.to(x.dtype) if needs[3] else None


def _before(
    grad_y: Tensor,
    x: Tensor,
    after: Affine,
    vectors: Tensor,
    signs: Tensor | None,
    by: Pair,
    kernels: Kernels,
) -> Tensor:
    """The gradient before the activation, in the dtype of the statistics."""
    grad_y = grad_y.to(vectors.dtype)
    act = after.act
    if act is None:
        return grad_y
    if signs is not None:  # the slope is a constant, which the kernel gives for a gradient of 1
        needs = (False, False, False, True)
        ones = torch.ones_like(x)
        slope = kernels.backward(ones, x.detach(), vectors, after, signs, needs, True)[3]
        assert slope is not None
        return grad_y * slope
    z = composite.normalize(x, *by, after.weight, after.bias)
    before = Affine(residual=after.residual, act=act if act.from_output else None)
    return act.backward(grad_y, finish(z, before, z.dtype))
