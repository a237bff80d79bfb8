"""The layers of a graph, and for each of its calls: which activation it has, or why none counts."""

import dataclasses
from functools import cached_property
from typing import Any

from torch import nn

from ..graph.graph import Call, Graph, Step, Value
from ..kinds import DIM_BY_LAYER, RANGES
from .roles import LAYER_FUNCTIONS, Reading, Role, Roles
from .ways import Follower

_RANGES = tuple(cls.__name__.lower() for cls in RANGES)
_LAYERS = tuple(DIM_BY_LAYER)


@dataclasses.dataclass(eq=False)
class Site:
    """One call of a function that multiplies by weights, as every layer makes it."""

    call: Call
    value: Value
    """What it gives."""
    layer: Call | None
    """The call of the linear or convolutional module that it is the work of."""
    activations: list[Reading] = dataclasses.field(default_factory=list)
    others: list[str] = dataclasses.field(default_factory=list)
    """What else reads the value, or a value that it is moved to."""
    reason: str | None = None
    """Why the layer has no activation before which normalization belongs."""

    @property
    def name(self) -> str:
        """Of the module that the call happens in."""
        module = self.layer or self.call.module
        return (module.name if module else None) or ""

    @property
    def is_linear(self) -> bool:
        """Whether its channels are the last axis."""
        return getattr(self.call.what, "__name__", "") == "linear"

    @property
    def num_spatial(self) -> int:
        """How many axes lie behind the channels."""
        weight: Any = self.call.args[1] if len(self.call.args) > 1 else self.call.kwargs["weight"]
        return 0 if self.is_linear else len(weight.shape) - 2

    def __str__(self) -> str:
        return str(self.layer or self.call)


class Sites:
    """All layer calls of a graph, in order, with what became of them.

    Args:
        model: That the graph is of.
        graph: As it was watched.
    """

    def __init__(self, model: nn.Module, graph: Graph) -> None:
        self.model, self.graph = model, graph
        self.roles = Roles(model)
        self.follow = Follower(self.roles)
        self.all = [
            Site(call, call.outputs, self._layer_of(call))
            for call in graph.calls
            if call.name is None and call.what in LAYER_FUNCTIONS and _varies(call.outputs)
        ]
        self._gates: set[int] = set()
        for site in reversed(self.all):  # a gate is known by what comes behind it
            self._decide(site)

    @cached_property
    def _site_by_call(self) -> dict[int, Site]:
        own = {id(site.call): site for site in self.all}
        return own | {id(site.layer): site for site in self.all if site.layer is not None}

    def site_of(self, by: Call | Step) -> Site | None:
        """The layer call that a reading is of."""
        return self._site_by_call.get(id(by))

    def _layer_of(self, call: Call) -> Call | None:
        module = call.module
        if module is None or module.name is None:
            return None
        return module if isinstance(self.model.get_submodule(module.name), _LAYERS) else None

    def _decide(self, site: Site) -> None:
        ways = self.follow.ways_of(site.value)
        norms = ways.of(Role.NORM)
        hits = ways.of(Role.ACTIVATION)
        site.activations = [hit for hit in hits if not self._is_gate(site, hit)]
        site.others = [f"{r} reads it" for r in ways.readings if r not in site.activations]
        if not any(hit.is_behind_sum for hit in site.activations):
            site.others += [f"{step} reads it" for step in ways.sums]
        site.others += ["the model returns it"] * ways.is_returned
        if site.value.dtype.is_complex:
            site.reason = f"it gives {site.value.dtype}; batch normalization is for real numbers"
        elif norms:
            sum_ = "the sum that it goes into is " if norms[0].is_behind_sum else ""
            site.reason = f"{sum_}already normalized by {norms[0]}"
        elif site.activations:
            site.reason = self._about_activations(site)
        elif hits:
            site.reason = site.reason or "it feeds a gate"
        elif ways.of(Role.PROBABILITY):
            who = ways.of(Role.PROBABILITY)[0]
            site.reason = f"{who} gives probabilities; it is not the activation of a hidden layer"
        else:
            site.reason = self._about_no_activation(site, ways.readings)

    def _is_gate(self, site: Site, hit: Reading) -> bool:
        product = self.follow.gated(site.value, hit)
        if product is not None:
            site.reason = f"{hit} makes a gate of it, multiplied onto other values ({product})"
            self._gates.add(id(site))
        return product is not None

    def _about_activations(self, site: Site) -> str | None:
        made = [value for hit in site.activations for value in hit.outputs]
        layers, returned = self.follow.reach(made)
        hit = site.activations[0]
        if not layers and returned and hit.name in _RANGES:
            return f"{hit} gives the network's output its range; this is no hidden layer"
        behind = [self._site_by_call.get(id(call)) for call in layers]
        if behind and all(other and id(other) in self._gates for other in behind):
            self._gates.add(id(site))
            return f"it only feeds a gate, {behind[0]}"
        return None

    def _about_no_activation(self, site: Site, readings: list[Reading]) -> str:
        layers, returned = self.follow.reach([site.value])
        if returned and not layers:
            return "the last layer, without activation"
        who = f"; {readings[0]} reads it" if readings else ""
        return f"no activation follows it{who}"

    def unfed(self) -> list[tuple[Reading, str]]:
        """Activations that no layer of the graph feeds, and what does."""
        hit = {id(reading.by) for site in self.all for reading in site.activations}
        found: dict[int, tuple[Reading, str]] = {}
        for value in self.graph.values:
            for step in value.readers:
                role, by = self.roles.of(step)
                if role is Role.ACTIVATION and value.varies and id(by) not in hit:
                    why = self._feeder(value)
                    if why:
                        found.setdefault(id(by), (Reading(role, by), why))
        return list(found.values())

    def _feeder(self, value: Value) -> str | None:
        while value.made_by is not None:
            step = value.made_by
            role, by = self.roles.of(step)
            if role is Role.LAYER and not self._is_site(step):
                return f"{by} feeds it, and is no linear or convolutional module"
            if role not in (Role.PASSIVE, Role.SUM):
                return None if role is not Role.OTHER else f"{by} feeds it, not a layer"
            value = next((v for v in step.reads if v.varies), step.reads[0])
        return None if value.names else "no linear or convolutional layer comes before it"

    def _is_site(self, step: Step) -> bool:
        return any(id(call) in self._site_by_call for call in step.calls)


def _varies(value: Any) -> bool:
    return isinstance(value, Value) and value.varies
