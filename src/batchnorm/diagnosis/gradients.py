"""Gradients of a loss, computed beside those that the parameters hold."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

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
    """Differentiate a loss; no hook that waits for `.grad`, such as an optimizer's, is run."""
    if not _has_reentrant_checkpoint(value):
        return list(torch.autograd.grad(value, list(parameters), allow_unused=True))
    # Such checkpoints can only be gone back through by `backward`.
    waiting = [p._post_accumulate_grad_hooks for p in parameters if p._post_accumulate_grad_hooks]
    held = [dict(hooks) for hooks in waiting]
    for hooks in waiting:
        hooks.clear()
    try:
        value.backward()  # type: ignore[no-untyped-call]
        return [parameter.grad for parameter in parameters]
    finally:
        for hooks, before in zip(waiting, held, strict=True):
            hooks.update(before)
        for parameter in parameters:
            parameter.grad = None


def _has_reentrant_checkpoint(value: Tensor) -> bool:
    waiting: list[Any] = [value.grad_fn]
    seen = set()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if node.name() == "CheckpointFunctionBackward":
            return True
        waiting += [other for other, _ in node.next_functions]
    return False
