"""Proof by running: two models give the same outputs, within what rounding can do."""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ...errors import SurgeryError
from ..copying import copy_model, in_evaluation
from ..example import Example

ROUNDINGS = 8
"""How many times the effect of one rounding of every weight two equal models may differ."""


class Difference(NamedTuple):
    """How far one output of two models is apart."""

    found: float
    allowed: float


def require_equal(
    original: nn.Module, edited: nn.Module, example: Example, eps: float, what: str
) -> float:
    """Compare two models on an example, in evaluation.

    How far outputs may be apart is measured: each parameter and buffer of a copy of the original is
    moved by one unit in the last place, up or down, and the outputs of the copy are compared with
    those of the original. `ROUNDINGS` times the largest of these differences, and as many units in
    the last place of the largest output, are allowed.

    Args:
        original: The model as it was.
        edited: The model that should compute the same.
        example: What they are called with.
        eps: The unit in the last place, relative, of the coarsest numbers they compute with.
        what: How a message calls the edited model.

    Returns:
        The largest difference.

    Raises:
        SurgeryError: They differ, or there is nothing that could be compared.
    """
    wanted, found = outputs_of(original, example), outputs_of(edited, example)
    moved = outputs_of(moved_copy(original, eps), example)
    shapes = [[t.shape for t in tensors] for tensors in (wanted, found, moved)]
    if shapes[0] != shapes[1]:
        raise SurgeryError(f"{what} gives outputs {shapes[1]}; expected {shapes[0]}. {_ASK}")
    if shapes[0] != shapes[2] or not any(t.numel() for t in wanted):
        raise SurgeryError(f"the model gives no outputs on the example by which to prove {what}")
    worst = 0.0
    for i, (a, b, c) in enumerate(zip(wanted, found, moved, strict=True)):
        apart = difference(a, b, c, eps)
        if not apart.found <= apart.allowed:
            raise SurgeryError(
                f"{what} gives another output {i} of shape {tuple(a.shape)}, {a.dtype}: expected "
                f"differences up to {apart.allowed:.2g}, found {apart.found:.2g}. {_ASK}"
            )
        worst = max(worst, apart.found)
    return worst


_ASK = "The model given is as it was. This should not happen: please report it."


def difference(wanted: Tensor, found: Tensor, moved: Tensor, eps: float) -> Difference:
    """How far two outputs are apart, and how far a rounding could bring them.

    Args:
        wanted: Of the original.
        found: Of the edited model.
        moved: Of the original with its weights moved by one unit in the last place.
        eps: That unit, relative.
    """
    if not wanted.is_floating_point():
        return Difference(distance(wanted.double(), found.double()), 0.0)
    a, b, c = wanted.double(), found.double(), moved.double()
    return Difference(distance(a, b), ROUNDINGS * (distance(a, c) + eps * largest(a)))


def outputs_of(model: nn.Module, example: Example) -> list[Tensor]:
    """The tensors and numbers that a copy of a model returns in evaluation.

    Raises:
        SurgeryError: It does not run.
    """
    scratch = in_evaluation(model)
    args, kwargs = example.copies()
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=devices_of(model)):
            torch.manual_seed(0)  # the same where a model draws numbers in evaluation, too
            return [t.detach() for t in leaves_of(scratch(*args, **kwargs))]
    except Exception as error:
        raise SurgeryError(f"the model does not run on the example ({example}): {error}") from error


def leaves_of(output: Any, depth: int = 4) -> list[Tensor]:
    """The tensors and numbers in an output, which may be a nest of objects."""
    found = []
    for leaf in pytree.tree_leaves(output):
        if isinstance(leaf, Tensor):
            found.append(leaf.to_dense() if leaf.is_sparse else leaf)
        elif isinstance(leaf, (bool, int, float)):
            found.append(torch.tensor(leaf))
        elif depth and hasattr(leaf, "__dict__"):
            found += leaves_of(dict(vars(leaf)), depth - 1)
    return found


def distance(a: Tensor, b: Tensor) -> float:
    """Largest difference; infinite where one is NaN or infinite and the other is not."""
    same = (a == b) | (a.isnan() & b.isnan())
    apart = torch.where(same, 0.0, (a - b).abs())
    return float(apart.nan_to_num(math.inf).max()) if apart.numel() else 0.0


def largest(a: Tensor) -> float:
    """The largest finite value, without its sign."""
    finite = a[a.isfinite()]
    return float(finite.abs().max()) if finite.numel() else 0.0


def moved_copy(model: nn.Module, eps: float) -> nn.Module:
    """Copy a model, and move each of its numbers by one unit in the last place, up or down."""
    moved = copy_model(model)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in {id(t): t for t in (*moved.parameters(), *moved.buffers())}.values():
            if tensor.is_floating_point():
                up = torch.randint(2, tensor.shape, generator=generator).to(tensor) * 2 - 1
                tensor.mul_(1 + eps * up)
    return moved


def devices_of(model: nn.Module) -> list[torch.device]:
    """The devices of a model whose random numbers have a state of their own."""
    tensors = [*model.parameters(), *model.buffers()]
    return sorted({t.device for t in tensors if t.device.type == "cuda"}, key=str)
