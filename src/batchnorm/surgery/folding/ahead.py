"""Which layers read a normalization, and whether it can go into them."""

from torch import nn

from ..graph.graph import Call, Graph, Step, Value
from ..graph.trail import Trail, is_move
from ..kinds import runs_as
from ..normed import only_normalizes
from .absorb import why_not_ahead
from .behind import FUNCTIONS, argument
from .draft import LAYERS, Draft, Target, activation_of
from .frozen import FrozenBatchNorm
from .obstacles import NORMS, about_layer, about_norm, described

Arrival = tuple[Call, Trail]


def targets_ahead(draft: Draft, graph: Graph, norm: str) -> tuple[Target, ...] | str:
    """The layers that are all that reads a normalization; or why there are none."""
    if activation_of(draft.model.get_submodule(norm)) is not None:
        return "its activation comes before what reads it"
    arrivals: list[Arrival] = []
    for call in graph.calls_of(norm):
        if argument(call, 1, "residual") is not None:
            return "a residual is added to it"
        reason = _arrive(draft.model, graph, call.outputs, arrivals)
        if reason:
            return reason
    return _targets(draft, graph, arrivals)


def _targets(draft: Draft, graph: Graph, arrivals: list[Arrival]) -> tuple[Target, ...] | str:
    found: dict[str, Target] = {}
    for call, trail in arrivals:
        target = _target(draft.model, call, trail)
        if isinstance(target, str):
            return target
        if target.name in found and bool((found[target.name].channels != target.channels).any()):
            return f"two calls of {described(draft.model, target.name)} take its channels otherwise"
        found[target.name] = target
    reached = [call for call, _ in arrivals]
    for target in found.values():
        reason = _about(draft, graph, target, reached)
        if reason:
            return reason
    return tuple(found.values()) or "nothing reads it"


def _arrive(model: nn.Module, graph: Graph, start: object, arrivals: list[Arrival]) -> str | None:
    """Follow a value to the layers that read it; say what else does."""
    if not isinstance(start, Value):
        return "it does not give one tensor"
    open_trails = [Trail(start, (), start)]
    while open_trails:
        trail = open_trails.pop()
        nexts = [_next(model, trail.end, step) for step in trail.end.readers]
        for reader in {id(n): n for n in nexts}.values():
            if isinstance(reader, str):
                return reader
            if isinstance(reader, Call):
                arrivals.append((reader, trail))
            else:
                open_trails.append(Trail(start, (*trail.steps, reader), reader.outputs[0]))
        reason = _seen_besides(graph, trail.end)
        if reason:
            return reason
    return None


def _next(model: nn.Module, value: Value, step: Step) -> Call | Step | str:
    for call in step.calls:
        if call.name and argument(call, 0, "input") is value:
            module = model.get_submodule(call.name)
            is_norm = runs_as(module, NORMS) and not isinstance(module, FrozenBatchNorm)
            if runs_as(module, LAYERS) or (is_norm and _is_alone(call)):
                return call
        if call.what in FUNCTIONS and argument(call, 0, "input") is value:
            layer = call.module
            if layer is not None and only_normalizes(model.get_submodule(layer.name or "")):
                return layer
    return step if is_move(step) else f"{step} reads it, not a layer"


def _is_alone(norm: Call) -> bool:
    return argument(norm, 1, "residual") is not argument(norm, 0, "input")


def _seen_besides(graph: Graph, value: Value) -> str | None:
    # its readers are accounted for, so only what is no reader counts
    readers, value.readers = value.readers, []
    try:
        return graph.others_that_read(value, Step(None, (), (), {}))
    finally:
        value.readers = readers


def _target(model: nn.Module, call: Call, trail: Trail) -> Target | str:
    name = call.name or ""
    module = model.get_submodule(name)
    is_norm = isinstance(module, NORMS)
    ndim = len(trail.end.shape)
    if isinstance(module, nn.Linear):
        axis = ndim - 1
    else:
        axis = 1 if is_norm else ndim - 1 - len(module.kernel_size)  # type: ignore[arg-type]
    channels = trail.channels_of_start(1, axis)
    if channels is None:
        return f"{call} takes its channels on another axis"
    return Target(name, "norm" if is_norm else "input", channels)


def _about(draft: Draft, graph: Graph, target: Target, reached: list[Call]) -> str | None:
    about = about_norm if target.side == "norm" else about_layer
    reason = about(draft.model, graph, target.name)
    if reason:
        return f"{described(draft.model, target.name)} reads it: {reason}"
    missed = [call for call in graph.calls_of(target.name) if call not in reached]
    if missed:
        return f"{missed[0]} reads something else"
    layer = draft.model.get_submodule(target.name)
    reason = why_not_ahead(layer) if target.side == "input" else None
    return reason and f"{described(draft.model, target.name)} reads it, and {reason}"
