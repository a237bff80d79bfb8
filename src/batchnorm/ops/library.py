"""Fused kernels as operations of torch, so that compilers see them as one step each.

Eager code calls the kernels without this detour. Here the residual is always kept instead of signs:
how many of these there are is not known for sizes that are not fixed.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from . import activation, dispatch
from .affine import Affine
from .contract import Kernels, Pair, readable

NAMESPACE = torch.library.Library("batchnorm", "DEF")  # type: ignore[no-untyped-call]

ops = torch.ops.batchnorm

_DEVICES = "CPU", "CUDA"

_AFTER = "Tensor? weight, Tensor? bias, Tensor? residual, str? activation"


def define(
    signature: str, implementation: Callable[..., Any], fake: Callable[..., Any], *keys: str
) -> None:
    """Make an operation of ours known to torch.

    Args:
        signature: Its schema.
        implementation: What computes it.
        fake: The same for tensors without values.
        keys: For which tensors: "CPU", "CUDA", or "CompositeExplicitAutograd" for all.
    """
    name = signature.partition("(")[0]
    NAMESPACE.define(signature, tags=torch.Tag.pt2_compliant_tag)  # type: ignore[no-untyped-call]
    for key in keys:
        NAMESPACE.impl(name, implementation, key)  # type: ignore[no-untyped-call]
    torch.library.register_fake(f"batchnorm::{name}", fake, lib=NAMESPACE)


def train(x: Tensor, after: Affine, eps: float) -> tuple[Tensor, Tensor]:
    """Normalize by the statistics of x, as `Kernels.train`; return the vectors as well."""
    y, vectors = ops.train.default(x, eps, *_named(after))
    return y, vectors


def evaluate(x: Tensor, after: Affine, eps: float, running: Pair) -> Tensor:
    """Normalize by a mean and a variance that are given, as `Kernels.evaluate`."""
    y: Tensor = ops.evaluate.default(x, *running, eps, *_named(after))[0]
    return y


def _named(after: Affine) -> tuple[Tensor | None, Tensor | None, Tensor | None, str | None]:
    return *after[:3], None if after.act is None else after.act.name


def _affine(
    weight: Tensor | None, bias: Tensor | None, residual: Tensor | None, name: str | None
) -> Affine:
    return Affine(weight, bias, residual, activation.get(name))


def _kernels(x: Tensor) -> Kernels:
    kernels = dispatch.own(x)
    if kernels is None:
        raise RuntimeError(f"batchnorm: a graph was compiled for kernels that {x.device} has not")
    return kernels


def _train(x: Tensor, eps: float, *after: Any) -> tuple[Tensor, Tensor]:
    out = _kernels(x).train(readable(x), _affine(*after), eps)
    return out.y, out.vectors


def _evaluate(
    x: Tensor, mean: Tensor, var: Tensor, eps: float, *after: Any
) -> tuple[Tensor, Tensor]:
    out = _kernels(x).evaluate(readable(x), _affine(*after), eps, (mean, var))
    return out.y, out.vectors


def _backward(
    grad_y: Tensor,
    x: Tensor,
    vectors: Tensor,
    constant: bool,
    needs: list[bool],
    *after: Any,
) -> tuple[Tensor, ...]:
    x = readable(x)
    grads = _kernels(x).backward(grad_y, x, vectors, _affine(*after), None, needs, constant)
    return tuple(x.new_empty(0) if grad is None else grad for grad in grads)


def _fake_forward(x: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    vectors = x.new_empty((4, x.shape[1]), dtype=torch.float32)
    return torch.empty_like(readable(x)), vectors


def _fake_backward(
    grad_y: Tensor, x: Tensor, vectors: Tensor, constant: bool, needs: list[bool], *_: Any
) -> tuple[Tensor, ...]:
    whole = torch.empty_like(readable(x))
    vector = vectors.new_empty(vectors.shape[1])
    like = whole, vector, vector, whole
    nothing = x.new_empty(0)
    return tuple(
        torch.empty_like(t) if n else nothing.clone() for t, n in zip(like, needs, strict=True)
    )


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    constant = len(inputs) == 8
    x, (weight, bias, residual, act) = inputs[0], inputs[-4:]
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(x, output[1], weight, bias, residual if act is not None else None)
    ctx.constant, ctx.act = constant, act


def _differentiate(ctx: Any, grad_y: Tensor, _: Any) -> tuple[Tensor | None, ...]:
    x, vectors, weight, bias, residual = ctx.saved_tensors
    before = 4 if ctx.constant else 2  # arguments in front of what follows the normalization
    asked = ctx.needs_input_grad
    needs = [asked[0], asked[before], asked[before + 1], asked[before + 2]]
    grads = ops.backward.default(
        grad_y, x, vectors, ctx.constant, needs, weight, bias, residual, ctx.act
    )
    by_vector = [
        grad.to(vector.dtype) if vector is not None and need else None
        for grad, vector, need in zip(grads[1:3], (weight, bias), needs[1:3], strict=True)
    ]
    return (
        grads[0] if needs[0] else None,
        *(None,) * (before - 1),
        *by_vector,
        grads[3] if needs[3] else None,
        None,
    )


define(
    f"train(Tensor x, float eps, {_AFTER}) -> (Tensor, Tensor)", _train, _fake_forward, *_DEVICES
)
define(
    f"evaluate(Tensor x, Tensor mean, Tensor var, float eps, {_AFTER}) -> (Tensor, Tensor)",
    _evaluate,
    _fake_forward,
    *_DEVICES,
)
define(
    "backward(Tensor grad_y, Tensor x, Tensor vectors, bool constant, bool[4] needs, "
    f"{_AFTER}) -> (Tensor, Tensor, Tensor, Tensor)",
    _backward,
    _fake_backward,
    *_DEVICES,
)
for _name in ("train", "evaluate"):
    torch.library.register_autograd(
        f"batchnorm::{_name}", _differentiate, setup_context=_keep, lib=NAMESPACE
    )
