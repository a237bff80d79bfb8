"""A plan carried out, on a copy that nobody else has."""

from collections.abc import Callable

from torch import nn

from ..editing.replace import put_in
from ..normed import hold
from .plan import Insertion, Plan


def apply_plan(model: nn.Module, plan: Plan, build: Callable[[Insertion], nn.Module]) -> None:
    """Put the planned modules in, and take the planned biases away.

    Args:
        model: A copy that nobody else has.
        plan: Made for a model of the same structure.
        build: Makes the module of each insertion.
    """
    for insertion in plan.insertions:
        parent, norm = model.get_submodule(insertion.parent), build(insertion)
        if insertion.side == "behind":
            put_in(parent, insertion.after, insertion.child, norm)
        else:
            hold(parent, insertion.side, norm, insertion.channels_last)
    for name in plan.dropped_biases:
        model.get_submodule(name).register_parameter("bias", None)
