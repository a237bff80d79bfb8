"""Gradients of a loss, computed beside those that the parameters hold."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ..surgery.recalibration.restore import undisturbed


@contextmanager
def set_aside(model: nn.Module) -> Iterator[None]:
    """Take `.grad` from all parameters, and give the same tensors back at the end of the block."""
    held = [(parameter, parameter.grad) for parameter in model.parameters()]
    for parameter, _ in held:
        parameter.grad = None
    try:
        yield
    finally:
        with undisturbed():
            for parameter, grad in held:
                parameter.grad = grad


def gradients_of(value: Tensor, parameters: Sequence[Tensor]) -> list[Tensor | None]:
    """Differentiate a loss; no hook that waits for `.grad`, such as an optimizer's, is run.

    Reentrant checkpoints can only be gone back through by `backward`.
    """
    try:
        return list(torch.autograd.grad(value, list(parameters), allow_unused=True))
    except RuntimeError as error:
        if "heckpoint" not in str(error):
            raise
    waiting = [getattr(p, "_post_accumulate_grad_hooks", None) for p in parameters]
    for parameter in parameters:
        parameter._post_accumulate_grad_hooks = None  # type: ignore[assignment]
    try:
        value.backward()  # type: ignore[no-untyped-call]
        return [parameter.grad for parameter in parameters]
    finally:
        for parameter, hooks in zip(parameters, waiting, strict=True):
            parameter._post_accumulate_grad_hooks = hooks  # type: ignore[assignment]
            parameter.grad = None
