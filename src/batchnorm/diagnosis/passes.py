"""One run of a model over the batches."""

import dataclasses
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ..errors import OptionError
from ..surgery.recalibration.batches import device_of, moved
from .gradients import gradients_of
from .meter import Meter
from .outputs import kept

Forward = Callable[[Any, Any], Any]
Loss = Callable[[Any, Any], Tensor]


@dataclasses.dataclass(frozen=True)
class Way:
    """How a batch is run.

    Args:
        model: The model.
        forward: Called as forward(model, batch).
        loss: Called as loss(output, batch), or None.
    """

    model: nn.Module
    forward: Forward
    loss: Loss | None

    def run(self, batch: Any) -> tuple[Any, Tensor | None]:
        """Run a copy of a batch, and compute its loss: a model may work in place."""
        fresh = self._copied(batch)
        output = self.forward(self.model, fresh)
        return output, None if self.loss is None else _checked(self.loss(output, fresh))

    def output(self, batch: Any) -> Any:
        """Run a copy of a batch."""
        return self.forward(self.model, self._copied(batch))

    def _copied(self, batch: Any) -> Any:
        return moved(pytree.tree_map(_copy, batch), device_of(self.model))


@dataclasses.dataclass
class Pass:
    """What a run has given, batch by batch."""

    outputs: list[Tensor | None] = dataclasses.field(default_factory=list)
    losses: list[float] = dataclasses.field(default_factory=list)
    grad_norms: dict[str, list[float]] = dataclasses.field(default_factory=dict)
    seconds: float = 0.0


def go(
    way: Way,
    batches: Iterable[Any],
    meter: Meter,
    parameters: dict[str, Tensor],
    progress: Callable[[], None],
) -> Pass:
    """Run the model over the batches.

    Args:
        way: How.
        batches: The batches.
        meter: Watches the layers.
        parameters: Those the loss is differentiated by; none for no gradients.
        progress: Called after every batch.
    """
    done = Pass()
    start = time.perf_counter()
    with meter.watching(way.model), torch.set_grad_enabled(bool(parameters)):
        for number, batch in enumerate(batches):
            meter.begin_batch(number)
            output, value = way.run(batch)
            done.outputs.append(kept(output))
            if value is not None:
                done.losses.append(float(value.detach()))
            if value is not None and parameters and value.requires_grad:
                with meter.going_back():
                    _differentiate(value, parameters, done)
            del output, value
            progress()
    done.seconds = time.perf_counter() - start
    return done


def _differentiate(value: Tensor, parameters: dict[str, Tensor], done: Pass) -> None:
    found: Sequence[Tensor | None] = gradients_of(value, list(parameters.values()))
    for name, grad in zip(parameters, found, strict=True):
        if grad is not None:
            norm = float(torch.linalg.vector_norm(_dense(grad).double()))
            done.grad_norms.setdefault(name, []).append(norm)


def _dense(grad: Tensor) -> Tensor:
    return grad.to_dense() if grad.is_sparse else grad


def _copy(leaf: Any) -> Any:
    if not isinstance(leaf, Tensor):
        return leaf
    return leaf.detach().clone().requires_grad_(leaf.requires_grad)


def _checked(value: Any) -> Tensor:
    if isinstance(value, Tensor) and value.numel() == 1 and value.is_floating_point():
        return value.squeeze() if value.dim() else value
    found = f"{tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
    raise OptionError(
        f"expected loss(output, batch) to return one floating number in a tensor, found {found}; "
        f"for example loss=lambda output, batch: cross_entropy(output, batch[1])"
    )
