"""Proof by training: two models take the same step, within what rounding can do."""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ...errors import SurgeryError
from ..copying import copy_model
from ..example import Example
from .prove import ROUNDINGS, devices_of, distance, largest, leaves_of, moved_copy


class Step(NamedTuple):
    """What one training step on an example gives."""

    loss: Tensor
    outputs: list[Tensor]
    gradients: dict[str, Tensor]
    """Of the parameters that get one."""
    buffers: dict[str, Tensor]
    """Those of the state_dict, as the forward pass leaves them: running statistics and the like."""


def step_of(model: nn.Module, example: Example) -> Step:
    """Run a copy of a model forward and backward in training mode.

    The loss is a sum of all outputs that have a gradient, weighted by random numbers.

    Raises:
        SurgeryError: The model does not run on the example in training.
    """
    scratch = copy_model(model).train()
    args, kwargs = example.copies()
    generator = torch.Generator().manual_seed(0)
    try:
        with torch.enable_grad(), torch.random.fork_rng(devices=devices_of(model)):
            torch.manual_seed(0)
            outputs = leaves_of(scratch(*args, **kwargs))
            loss = torch.zeros((), dtype=torch.float64)
            for output in (o for o in outputs if o.requires_grad and o.is_floating_point()):
                weight = torch.randn(output.shape, generator=generator, dtype=torch.float64)
                loss = loss + (output.cpu().double() * weight).sum() / math.sqrt(output.numel())
            # Activation checkpointing runs parts again, where layers of torch learn twice.
            saved = scratch.state_dict()
            buffers = {n: b.cpu().clone() for n, b in scratch.named_buffers() if n in saved}
            if loss.requires_grad:
                loss.backward()  # type: ignore[no-untyped-call]
    except Exception as error:
        raise SurgeryError(
            f"the model does not run on the example in training mode ({example}): {error}. "
            "Training is compared, too: give an example of two or more samples, on which it runs."
        ) from error
    gradients = {n: p.grad.cpu() for n, p in scratch.named_parameters() if p.grad is not None}
    return Step(loss.detach(), [o.detach().cpu() for o in outputs], gradients, buffers)


def require_equal_step(
    original: nn.Module, edited: nn.Module, example: Example, eps: float, terms: int, what: str
) -> float:
    """Compare outputs, gradients and buffers of one training step of two models.

    How far they may be apart is measured, as by `prove.require_equal`: by the step of a copy of the
    original whose weights are moved, here by the rounding of a sum: statistics and gradients are
    sums, in whatever order, whose roundings add up to the root of the number of terms. Where the
    numbers are coarser than float64, a value may fall on the other side of a kink of an activation,
    and gradients may differ by the square root of that unit.

    Args:
        original: The model as it was.
        edited: The model that should learn the same.
        example: What they are called with.
        eps: The unit in the last place, relative, of the coarsest numbers they compute with.
        terms: How many values at most are summed into one.
        what: How a message calls the edited model.

    Returns:
        The largest difference of an output.

    Raises:
        SurgeryError: They differ.
    """
    unit = eps * math.sqrt(terms)
    wanted, found = step_of(original, example), step_of(edited, example)
    moved = step_of(moved_copy(original, unit), example)
    _require_same_names(wanted, found, what)
    size = max((float(g.abs().max()) for g in wanted.gradients.values() if g.numel()), default=0.0)
    kink = 0.0 if eps <= torch.finfo(torch.float64).eps else math.sqrt(eps)
    for name, gradient in wanted.gradients.items():
        others = (found.gradients[name], moved.gradients[name])
        _require(f"the gradient of {name}", what, (gradient, *others), unit, size, kink * size)
    for name in wanted.buffers:
        three = wanted.buffers[name], found.buffers[name], moved.buffers[name]
        _require(f"the buffer {name}", what, three, unit, _size_of_inputs(wanted.buffers, name))
    outputs = zip(wanted.outputs, found.outputs, moved.outputs, strict=True)
    worst = 0.0
    for i, three in enumerate(outputs):
        worst = max(worst, _require(f"output {i}", what, three, unit))
    return worst


def _require(
    name: str,
    what: str,
    three: tuple[Tensor, Tensor, Tensor],
    unit: float,
    size: float = 0.0,
    more: float = 0.0,
) -> float:
    a, b, c = (tensor.double() for tensor in three)
    size = max(size, largest(a))
    allowed = ROUNDINGS * (distance(a, c) + unit * size) + more
    apart = distance(a, b)
    if not apart <= allowed:
        raise SurgeryError(
            f"in a training step of {what}, {name} differs: expected differences up to "
            f"{allowed:.2g}, found {apart:.2g}. The model given is as it was. This should not "
            "happen: please report it."
        )
    return apart


def _size_of_inputs(buffers: dict[str, Tensor], name: str) -> float:
    """A mean is rounded as its values are: by their size, not by its own."""
    layer, _, own = name.rpartition(".")
    var = buffers.get(f"{layer}.running_var" if layer else "running_var")
    if own != "running_mean" or var is None:
        return 0.0
    return math.sqrt(largest(var.double()))


def _require_same_names(wanted: Step, found: Step, what: str) -> None:
    shapes = [[o.shape for o in step.outputs] for step in (wanted, found)]
    odd = sorted(wanted.gradients.keys() ^ found.gradients.keys())
    odd += sorted(wanted.buffers.keys() ^ found.buffers.keys())
    if odd or shapes[0] != shapes[1]:
        said = f"others have gradients, or are there: {', '.join(odd)}" if odd else "outputs differ"
        raise SurgeryError(f"in a training step of {what}, {said}. Please report it.")
