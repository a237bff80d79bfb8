"""A copy of a model in which surgery can read what it otherwise could not."""

from typing import TypeVar

from torch import nn

from ...errors import SurgeryError
from ..copying import copy_model
from ..example import Example
from ..graph.graph import Call, Value
from ..graph.watch import watch
from ..kinds import num_features_of, runs_as
from .draft import LAYERS
from .exported import raised
from .frozen import stand_in

M = TypeVar("M", bound=nn.Module)


def prepared(model: M) -> M:
    """Copy a model; operators of exported programs and frozen normalizations become layers."""
    copy = raised(copy_model(model))
    stand_in(copy)
    return copy


def would_read_a_bias(model: nn.Module, example: Example) -> frozenset[str]:
    """Layers without a bias, with a forward of their own, that would add one if they had it.

    Each gets a bias of 0, in a copy that runs on the example: it must arrive at every operator
    that reads the layer's weight.
    """
    scratch = copy_model(model)
    names = set()
    for name, module in scratch.named_modules():
        weight = module._parameters.get("weight")
        if isinstance(module, LAYERS) and not runs_as(module, LAYERS) and weight is not None:
            if module._parameters.get("bias", weight) is not None:
                continue
            names.add(name)
            bias = weight.new_zeros(num_features_of(module))
            module.register_parameter("bias", nn.Parameter(bias, requires_grad=False))
    if not names:
        return frozenset()
    try:
        graph = watch(scratch, example)
    except SurgeryError:  # it does not take a bias
        return frozenset()
    for call in graph.calls:
        for name in _weights_of(call):
            if f"{name}.bias" not in _names_of(call):
                names.discard(name)
    return frozenset(names)


def _weights_of(call: Call) -> list[str]:
    names = _names_of(call) if call.name is None else set()
    return [n.removesuffix(".weight") for n in names if n.endswith(".weight")]


def _names_of(call: Call) -> set[str]:
    given = [*call.args, *call.kwargs.values()]
    return {name for value in given if isinstance(value, Value) for name in value.names}
