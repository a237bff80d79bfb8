"""What feeds a layer, and what reads it, in words that rules can judge."""

from collections.abc import Iterator, Mapping

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..surgery.graph.graph import Call, Graph, Step, Value, values_in
from ..surgery.graph.trail import MOVES
from ..surgery.kinds import ACTIVATIONS, DIM_BY_LAYER, NORMS, SPATIAL
from .evidence import Neighbor

DROPOUTS = (nn.modules.dropout._DropoutNd,)

_MODULES: tuple[tuple[str, tuple[type[nn.Module], ...]], ...] = (
    ("layer", tuple(DIM_BY_LAYER)),
    ("norm", (_BatchNorm, *NORMS)),
    ("activation", ACTIVATIONS),
    ("dropout", DROPOUTS),
    ("position", SPATIAL),
)

_OPS: dict[str, tuple[str, ...]] = {
    "layer": ("convolution", "linear", "addmm", "mm", "bmm", "matmul", "baddbmm"),
    "activation": (
        "celu", "clamp_min", "elu", "gelu", "hardsigmoid", "hardswish", "hardtanh", "leaky_relu",
        "mish", "prelu", "relu", "selu", "sigmoid", "silu", "softplus", "tanh",
    ),
    "add": ("add", "sub"),
    "concatenation": ("cat", "stack"),
    "dropout": ("bernoulli", "dropout", "native_dropout"),
    "output": ("_log_softmax", "_softmax", "log_softmax", "softmax"),
}  # fmt: skip

FAR = 12
"""Steps back, at most."""


def fed_by(graph: Graph, name: str, modules: Mapping[str, nn.Module]) -> tuple[Neighbor, ...]:
    """List what the input of a layer has gone through, the nearest first.

    It ends with a layer that has weights, a normalization, or where several values come together.

    Args:
        graph: What was seen.
        name: The layer.
        modules: Those of the model, by name.
    """
    found: list[Neighbor] = []
    for call in graph.calls_of(name)[:1]:
        given = [v for v in values_in((call.args, call.kwargs)) if v.varies]
        value = given[0] if given else None
        while value is not None and len(found) < FAR:
            found += _dropouts(graph, value)
            if value.made_by is None:
                break
            neighbor, sources = _maker(value, value.made_by, modules)
            if neighbor.kind != "move":
                found.append(neighbor)
            ends = neighbor.kind in ("layer", "norm", "add", "concatenation")
            value = sources[0] if len(sources) == 1 and not ends else None
    return tuple(found)


def read_by(graph: Graph, name: str, modules: Mapping[str, nn.Module]) -> tuple[Neighbor, ...]:
    """List what reads the output of a layer directly, past views.

    Args:
        graph: What was seen.
        name: The layer.
        modules: Those of the model, by name.
    """
    found: list[Neighbor] = []
    for call in graph.calls_of(name):
        for value in values_in(call.outputs):
            found += _readers(graph, value, modules, FAR)
    return tuple(dict.fromkeys(found))


def _readers(
    graph: Graph, value: Value, modules: Mapping[str, nn.Module], room: int
) -> Iterator[Neighbor]:
    yield from _dropouts(graph, value)
    if value.is_output:
        yield Neighbor("output", None, "output of the model", None)
    for step in value.readers:
        neighbor = _described(step, _owner(step, value, modules), modules)
        if neighbor.kind == "move" and room:
            for made in step.outputs:
                yield from _readers(graph, made, modules, room - 1)
        else:
            yield neighbor


def _maker(
    value: Value, step: Step, modules: Mapping[str, nn.Module]
) -> tuple[Neighbor, list[Value]]:
    """Describe what made a value, and list the values that it made it from."""
    owner = next((c for c in step.calls if _known(c, modules) and _gives(c, value)), None)
    read = step.reads if owner is None else values_in((owner.args, owner.kwargs))
    sources = {id(v): v for v in read if v.varies}
    return _described(step, owner, modules), list(sources.values())


def _owner(step: Step, value: Value, modules: Mapping[str, nn.Module]) -> Call | None:
    takes = (c for c in step.calls if _known(c, modules) and _takes(c, value))
    return next(takes, None)


def _described(step: Step, owner: Call | None, modules: Mapping[str, nn.Module]) -> Neighbor:
    if owner is not None and owner.name is not None:
        module = modules[owner.name]
        has_bias = getattr(module, "bias", None) is not None
        return Neighbor(_kind(module), owner.name, type(module).__name__, has_bias)
    if step.op is None:
        return Neighbor("other", _place(step), str(step), None)
    op = str(step.op.overloadpacket.__name__)
    kind = next((k for k, ops in _OPS.items() if op.rstrip("_") in ops or op in ops), None)
    if kind is None:
        kind = "move" if op in MOVES else "position" if "pool" in op else "other"
    has_bias = any(not v.varies and len(v.shape) == 1 for v in step.reads)
    return Neighbor(kind, _place(step), op.strip("_"), has_bias)


def _dropouts(graph: Graph, value: Value) -> Iterator[Neighbor]:
    """Find dropout that gave a value; in evaluation mode it gives what it was given."""
    for call in graph.calls:
        is_module = isinstance(call.what, type) and issubclass(call.what, DROPOUTS)
        is_function = "dropout" in getattr(call.what, "__name__", "") and call.name is None
        inside = any(isinstance(c.what, type) and issubclass(c.what, DROPOUTS) for c in call.outer)
        repeated = any("dropout" in getattr(c.what, "__name__", "") for c in call.outer)
        if (is_module or (is_function and not inside and not repeated)) and _gives(call, value):
            name = call.name if is_module else _name(call.module)
            yield Neighbor("dropout", name, call.what.__name__, None)


def _known(call: Call, modules: Mapping[str, nn.Module]) -> bool:
    return call.name is not None and call.name in modules and _kind(modules[call.name]) != "other"


def _kind(module: nn.Module) -> str:
    return next((kind for kind, classes in _MODULES if isinstance(module, classes)), "other")


def _gives(call: Call, value: Value) -> bool:
    return any(v is value for v in values_in(call.outputs))


def _takes(call: Call, value: Value) -> bool:
    return any(v is value for v in values_in((call.args, call.kwargs)))


def _place(step: Step) -> str | None:
    return _name(step.calls[-1].module if step.calls else None)


def _name(call: Call | None) -> str | None:
    return None if call is None else call.name


def modules_of(model: nn.Module) -> dict[str, nn.Module]:
    """All modules by name, but those that were compiled to a script: what is in them is steps."""
    return {
        name: module
        for name, module in model.named_modules()
        if not isinstance(module, torch.jit.ScriptModule)
    }
