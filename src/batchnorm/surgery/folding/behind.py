"""Which layers feed a normalization, and whether it can go into them."""

from typing import Any

from torch import nn
from torch.nn import functional as F

from ..graph.graph import Call, Graph, Step, Value
from ..graph.trail import Trail, is_move
from .draft import LAYERS, Draft, Target
from .obstacles import about_layer, about_module, described

FUNCTIONS = (
    F.conv1d,
    F.conv2d,
    F.conv3d,
    F.conv_transpose1d,
    F.conv_transpose2d,
    F.conv_transpose3d,
    F.linear,
)


def argument(call: Call, position: int, name: str) -> Any:
    """An argument of a call, however it was given."""
    return call.args[position] if position < len(call.args) else call.kwargs.get(name)


def targets_behind(draft: Draft, graph: Graph, norm: str) -> tuple[Target, ...] | str:
    """The layers whose outputs a normalization is all that is read of; or why there are none."""
    found: dict[str, Target] = {}
    covered: list[Call] = []
    for call in graph.calls_of(norm):
        source = _source(draft, graph, call)
        if isinstance(source, str):
            return source
        layer, target = source
        if target.name in found and bool((found[target.name].channels != target.channels).any()):
            return f"two calls take the channels of {described(draft.model, target.name)} otherwise"
        found[target.name] = target
        covered.append(layer)
    for name in found:
        reason = about_layer(draft.model, graph, name) or _uncovered(graph, name, covered)
        if reason:
            return reason
    return tuple(found.values())


def _source(draft: Draft, graph: Graph, norm: Call) -> tuple[Call, Target] | str:
    model = draft.model
    end = argument(norm, 0, "input")
    found = _trail_to(end)
    if isinstance(found, str):
        return found
    trail, layer = found
    reason = _about_module_of(model, layer)
    if reason:
        return reason
    reason = _seen_on_the_way(graph, trail, norm) or _is_residual_too(norm, trail)
    if reason:
        return f"{layer} feeds it, but {reason}"
    name = _module_of(model, graph, layer)
    if name is None:
        return f"{layer} feeds it, which is no layer that has its weight as a parameter"
    axis = _channel_axis(layer, trail.start)
    channels = trail.channels_of_end(axis, 1)
    if channels is None:
        return f"the channels of {described(model, name)} are not those that it normalizes, axis 1"
    if not draft.takes_bias(name):
        return f"{described(model, name)} has a forward of its own, and no bias to put a shift in"
    return layer, Target(name, "output", channels)


def _trail_to(end: Value) -> tuple[Trail, Call] | str:
    """The way back from a value to the layer that made it; or what made it instead."""
    steps: list[Step] = []
    value = end
    while value.made_by is not None:
        step = value.made_by
        layer = _layer_call(step, value)
        if layer is not None:
            return Trail(value, tuple(reversed(steps)), end), layer
        if not is_move(step):
            return f"{step} feeds it, not a layer"
        steps.append(step)
        value = step.reads[0]
    return "a parameter feeds it" if value.names else "an input of the model feeds it"


def _layer_call(step: Step, value: Value) -> Call | None:
    for call in step.calls:
        if call.name is None and call.what in FUNCTIONS and call.outputs is value:
            return call
    return None


def _seen_on_the_way(graph: Graph, trail: Trail, norm: Call) -> str | None:
    readers: list[Call | Step] = [*trail.steps, norm]
    for value, reader in zip(trail.values, readers, strict=True):
        who = graph.others_that_read(value, reader)
        if who:
            return who
    return None


def _is_residual_too(norm: Call, trail: Trail) -> str | None:
    residual = argument(norm, 1, "residual")
    is_same = isinstance(residual, Value) and residual is trail.end
    return "it is the residual, too" if is_same else None


def _about_module_of(model: nn.Module, layer: Call) -> str | None:
    name = layer.module.name if layer.module else None
    if name is None or not isinstance(model.get_submodule(name), LAYERS):
        return None
    reason = about_module(model, name)
    return reason and f"{described(model, name)}: {reason}"


def _module_of(model: nn.Module, graph: Graph, layer: Call) -> str | None:
    weight, bias = argument(layer, 1, "weight"), argument(layer, 2, "bias")
    if not isinstance(weight, Value) or layer.module is None or layer.module.name is None:
        return None
    name = layer.module.name
    own = graph.tensors_of(name)
    if not isinstance(model.get_submodule(name), LAYERS) or weight not in own:
        return None
    if f"{name}.weight" not in weight.names:
        return None
    has_bias = model.get_submodule(name).bias is not None
    is_own_bias = isinstance(bias, Value) and f"{name}.bias" in bias.names
    return name if is_own_bias or (bias is None and not has_bias) else None


def _channel_axis(layer: Call, output: Value) -> int:
    if layer.what is F.linear:
        return len(output.shape) - 1
    weight = argument(layer, 1, "weight")
    return len(output.shape) - 1 - (len(weight.shape) - 2)


def _uncovered(graph: Graph, name: str, covered: list[Call]) -> str | None:
    """Say which use of a layer the normalization does not follow."""
    for value in graph.tensors_of(name):
        for step in value.readers:
            is_own = any(call.name == name for call in step.calls)
            if is_own and not any(call in covered for call in step.calls):
                return f"{step} feeds something else"
    return None
