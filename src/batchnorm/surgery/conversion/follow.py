"""What follows a normalization, as seen on a run: an addition, an activation, or what else."""

import dataclasses

from torch import nn

from ..folding.behind import argument
from ..graph.graph import Call, Graph, Value, values_in
from . import activations

ADDITIONS = ("add", "add_", "__add__", "__iadd__", "__radd__")


@dataclasses.dataclass(frozen=True)
class Followers:
    """The calls after one call of a normalization that could become part of it."""

    norm: Call
    addition: Call | None
    activation: Call | None
    name: str | None
    """Of the activation, as our layers call it."""
    why: str
    """What ends the chain: the reason for which no more follows."""

    @property
    def calls(self) -> list[Call]:
        """The normalization, and those after it."""
        return [c for c in (self.norm, self.addition, self.activation) if c is not None]

    @property
    def pattern(self) -> tuple[bool, str | None]:
        """Whether there is an addition, and the activation."""
        return self.addition is not None, self.name

    @property
    def owner(self) -> Call | None:
        """The innermost call of a module that all of them are inside."""
        chains = [[*call.outer] for call in self.calls]
        common = [
            calls[0] for calls in zip(*chains, strict=False) if all(c is calls[0] for c in calls)
        ]
        return next((call for call in reversed(common) if call.name is not None), None)

    @property
    def between(self) -> set[str]:
        """Names of the modules between the owner and the calls."""
        owner = self.owner
        inside = [c for call in self.calls for c in call.outer if owner in c.outer]
        return {call.name for call in inside if call.name is not None}


class Run:
    """A run that was seen, by the calls that take each value.

    Args:
        model: What ran.
        graph: What was seen.
    """

    def __init__(self, model: nn.Module, graph: Graph) -> None:
        self.model, self.graph = model, graph
        self._takers: dict[Value, list[Call]] = {}
        for call in graph.calls:
            for value in set(values_in((call.args, call.kwargs))):
                self._takers.setdefault(value, []).append(call)

    def takers(self, value: Value, maker: Call) -> list[Call] | str:
        """The calls that take a value, each inside the one before it; or who else reads it."""
        found: list[Call] = []
        for call in self._takers.get(value, ()):
            if call is maker or maker in call.outer or call.what is nn.Identity:
                continue
            if found and found[-1] not in call.outer:
                return f"{found[-1]} and {call} both read it"
            found.append(call)
        who = self.graph.others_that_read(value, found[0] if found else maker)
        return who or found or "nothing reads it"


def followers(run: Run, norm: Call) -> Followers:
    """Look at what reads the output of a normalization, and nothing else does."""
    model, graph = run.model, run.graph
    value = norm.outputs
    if not isinstance(value, Value) or not value.varies:
        return Followers(norm, None, None, None, "it does not give one tensor")
    takers = run.takers(value, norm)
    addition = None
    if not isinstance(takers, str) and argument(norm, 1, "residual") is None:
        reason = _about_addition(graph, takers[0], value, norm)
        if reason is None:
            addition, value = takers[0], takers[0].outputs
            takers = run.takers(value, addition)
        elif reason:
            takers = reason
    if isinstance(takers, str):
        return Followers(norm, addition, None, None, takers)
    for call in takers:
        name = _activation(model, call, value)
        if name is not None:
            who = graph.others_that_read(value, call)
            if who:
                return Followers(norm, addition, None, None, who)
            return Followers(norm, addition, call, name, "")
    return Followers(norm, addition, None, None, f"{takers[0]} comes after it")


def _activation(model: nn.Module, call: Call, value: Value) -> str | None:
    if call.name is not None:
        module = model.get_submodule(call.name)
        return activations.of_module(module) if call.args == (value,) else None
    name = getattr(call.what, "__name__", "")
    is_first = len(call.args) > 0 and call.args[0] is value
    return activations.of_function(name, call.args, call.kwargs) if is_first else None


def _about_addition(graph: Graph, call: Call, value: Value, norm: Call) -> str | None:
    """Say why an addition cannot be taken in; "" for what is none, None for one that can."""
    name = getattr(call.what, "__name__", "")
    if call.name is not None or name not in ADDITIONS:
        return ""
    terms = [x for x in call.args if isinstance(x, Value)]
    if len(call.args) != 2 or len(terms) != 2 or set(call.kwargs) - {"alpha"}:
        return f"{call} adds something that is no tensor"
    if call.kwargs.get("alpha", 1) != 1:
        return f"{call} adds a multiple"
    other = terms[1] if terms[0] is value else terms[0]
    if other is value:
        return f"{call} adds it to itself"
    if (other.shape, other.dtype) != (value.shape, value.dtype):
        return f"{call} adds another shape or dtype"
    if name in ("add_", "__iadd__") and terms[0] is not value:
        return f"{call} writes the sum into something else"
    return _about_delay(graph, call, norm)


def _about_delay(graph: Graph, addition: Call, norm: Call) -> str | None:
    """Say why a normalization cannot run as late as the addition after it."""
    source, value, total = argument(norm, 0, "input"), norm.outputs, addition.outputs
    if not isinstance(source, Value) or not isinstance(total, Value):
        return "it does not take one tensor"
    for between in graph.values[value.number + 1 : total.number]:
        if between.memory == source.memory:
            return f"{between.made_by} changes its input before the addition"
    return None
