"""Take derivatives of a layer and of its twin in the same way."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor
from torch.autograd import forward_ad

LEAVES = ("x", "residual", "weight", "bias")


@dataclass(frozen=True)
class Given:
    """All tensors that one output is a function of, the running statistics apart."""

    x: Tensor
    residual: Tensor | None
    weight: Tensor | None
    bias: Tensor | None
    mask: Tensor | None
    sample_weight: Tensor | None

    @property
    def leaves(self) -> dict[str, Tensor]:
        found = {name: getattr(self, name) for name in LEAVES}
        return {k: v for k, v in found.items() if v is not None and v.requires_grad}

    def exactly(self) -> Given:
        """The same numbers in float64, for the twin."""
        copies = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if value is not None:
                value = value.detach().double().clone().requires_grad_(value.requires_grad)
            copies[field.name] = value
        return Given(**copies)


Batch = list[Given]
Forward = Callable[[Batch], list[Tensor]]
Named = dict[str, Tensor]
Later = Callable[[], Named]


def first(forward: Forward, batch: Batch, grads: list[Tensor]) -> tuple[Named, Later]:
    """Outputs now, gradients when asked for."""
    outputs = forward(batch)
    leaves = _leaves(batch)

    def backward() -> Named:
        for leaf in leaves.values():
            leaf.grad = None
        if leaves:
            torch.autograd.backward(outputs, grads)
        return {f"gradient of {name}": leaf.grad for name, leaf in leaves.items()}

    return _named("output", outputs), backward


def second(forward: Forward, batch: Batch, grads: list[Tensor]) -> tuple[Named, Later]:
    """Gradients, and the gradients of a weighted sum of them."""
    outputs = forward(batch)
    leaves = _leaves(batch)
    if not leaves:
        return _named("output", outputs), dict
    grads = [grad.clone().requires_grad_() for grad in grads]

    def backward() -> Named:
        gradients = torch.autograd.grad(
            outputs, list(leaves.values()), grads, create_graph=True, materialize_grads=True
        )
        total = sum((gradient * _direction(gradient)).sum() for gradient in gradients)
        sources = {**leaves, **_named("grad_output", grads)}
        curved = torch.autograd.grad(total, list(sources.values()), materialize_grads=True)
        found = {f"gradient of {k}": v for k, v in zip(leaves, gradients, strict=True)}
        return found | {f"second gradient of {k}": v for k, v in zip(sources, curved, strict=True)}

    return _named("output", outputs), backward


def tangent(forward: Forward, batch: Batch, grads: list[Tensor]) -> tuple[Named, Later]:
    """Outputs and their derivative in one direction, in forward mode."""
    with forward_ad.dual_level():
        duals = [
            replace(
                given,
                **{k: forward_ad.make_dual(v, _direction(v)) for k, v in given.leaves.items()},
            )
            for given in batch
        ]
        pairs = [forward_ad.unpack_dual(output) for output in forward(duals)]
    found = _named("output", [pair.primal for pair in pairs])
    tangents = [pair.primal * 0 if pair.tangent is None else pair.tangent for pair in pairs]
    return found | _named("tangent", tangents), dict


def nothing(forward: Forward, batch: Batch, grads: list[Tensor]) -> tuple[Named, Later]:
    """Outputs alone."""
    with torch.no_grad():
        return _named("output", forward(batch)), dict


def inference(forward: Forward, batch: Batch, grads: list[Tensor]) -> tuple[Named, Later]:
    """Outputs alone, of which no derivative can ever be taken."""
    with torch.inference_mode():
        return _named("output", forward(batch)), dict


def _leaves(batch: Batch) -> Named:
    return {
        f"{name} {number}": leaf
        for number, given in enumerate(batch)
        for name, leaf in given.leaves.items()
    }


def _named(name: str, tensors: list[Tensor]) -> Named:
    return {f"{name} {number}": tensor for number, tensor in enumerate(tensors)}


def _direction(like: Tensor) -> Tensor:
    """Numbers that every dtype holds exactly."""
    numbers = (torch.arange(like.numel()) * 7 % 5 - 2) / 2
    return numbers.view(like.shape).to(like.dtype)
