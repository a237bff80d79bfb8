"""The one place where surgery edits a model, and it is always a copy."""

import copy
from collections.abc import Callable
from typing import TypeVar

from torch import nn

from ..errors import SurgeryError
from .plan import Insertion, Plan

M = TypeVar("M", bound=nn.Module)


def copy_model(model: M) -> M:
    """Copy a model with everything on it: parameters, buffers, hooks, modes, sharing.

    Raises:
        SurgeryError: Something in the model cannot be copied.
    """
    try:
        return copy.deepcopy(model)
    except Exception as error:
        raise SurgeryError(
            f"the model cannot be copied: {error}. A frequent cause is a weight computed by a "
            "hook, as the old torch.nn.utils.weight_norm and prune do; use "
            "torch.nn.utils.parametrizations instead."
        ) from error


def apply_plan(model: M, plan: Plan, build: Callable[[Insertion], nn.Module]) -> M:
    """Return a copy of the model with the planned modules put in and the planned biases gone."""
    edited = copy_model(model)
    for insertion in plan.insertions:
        sequence = edited.get_submodule(insertion.parent)
        put_in(sequence, insertion, build(insertion))
    for name in plan.dropped_biases:
        edited.get_submodule(name).register_parameter("bias", None)
    return edited


def put_in(sequence: nn.Module, insertion: Insertion, module: nn.Module) -> None:
    """Put a module into a sequence behind one of its children, in the mode of the sequence."""
    children = dict(sequence._modules)  # named_children() would leave out a repeated module
    module.train(sequence.training)
    sequence._modules.clear()
    if insertion.after is None:
        sequence.add_module(insertion.child, module)
    for name, child in children.items():
        sequence.add_module(name, child)
        if name == insertion.after:
            sequence.add_module(insertion.child, module)
