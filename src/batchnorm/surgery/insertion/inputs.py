"""Batch normalization for what a model is given, in front of all that reads it."""

import torch
from torch import nn

from ..example import Example
from ..graph.graph import Call, Graph, Value, values_in
from ..kinds import Kind, is_sequence, kind_of
from .channels import Channels, of_input
from .places import Place, Places
from .plan import Plan
from .roles import STEPPING, Reading, Role, calls_around
from .sites import Sites
from .ways import Ways

_WRAP = "for a place in front of the model wrap it: insert(nn.Sequential(model), example, ...)"
Found = list[tuple[Place, Channels, str]]
"""Places for normalizations, with their channels and the reason."""


def plan_inputs(model: nn.Module, graph: Graph, example: Example) -> Plan:
    """Plan one normalization for every floating-point input of a model.

    Args:
        model: The model.
        graph: Of its calls.
        example: What it was called with.
    """
    inputs = Inputs(model, graph)
    root = graph.calls[0]
    given = zip(values_in((root.args, root.kwargs)), example.tensors(), strict=True)
    unique = {id(value): (value, tensor) for value, tensor in given}
    for number, (value, tensor) in enumerate(unique.values()):
        what = f"the example input {number}" if len(unique) > 1 else "the example input"
        inputs.plan_for(value, what, tensor.device)
    return inputs.plan


class Inputs:
    """The plan while it is being made.

    Args:
        model: The model.
        graph: Of its calls.
    """

    def __init__(self, model: nn.Module, graph: Graph) -> None:
        self.model, self.graph = model, graph
        self.sites = Sites(model, graph)
        self.places = Places(model, graph)
        self.plan = Plan()

    def plan_for(self, value: Value, what: str, device: torch.device) -> None:
        """Plan the normalization of one input, or note why there is none."""
        ways = self.sites.follow.ways_of(value)
        found = _about(value, what) or self._about_readers(ways) or self._found(value, ways)
        if isinstance(found, str):
            self.plan.leave("", found)
            return
        for place, channels, why in found:
            self.plan.insert(place.insertion(channels, value.dtype, device), why)

    def _found(self, value: Value, ways: Ways) -> Found | str:
        found = self._in_sequence(value, ways) or self._at_layers(value, ways)
        return f"{found}; {_WRAP}" if isinstance(found, str) else found

    def _about_readers(self, ways: Ways) -> str | None:
        norms = ways.of(Role.NORM)
        if norms:
            return f"the inputs are normalized by {norms[0]} already"
        calls = [call for reading in ways.readings for call in calls_around(reading.by)]
        for call in calls:
            if call.name is not None and isinstance(self.model.get_submodule(call.name), STEPPING):
                return f"{call} reads it, whose features are the last axis; normalize them by hand"
        return None

    def _in_sequence(self, value: Value, ways: Ways) -> Found | str | None:
        """In the outermost `nn.Sequential` that takes it; None where layers must hold it."""
        taken = [self._taken(r, value) for r in ways.readings if not r.way]
        wrong = next((channels for channels in taken if isinstance(channels, str)), None)
        if wrong or any(isinstance(own, Channels) and own.are_last for own in taken):
            return wrong
        outer = next((call for call in self.graph.calls if self._takes(call, value)), None)
        if outer is None or any(outer not in step.calls for step in value.readers):
            return None
        place = self.places.ahead(outer)
        if isinstance(place, str):
            return place
        channels = Channels(value.shape[1], max(1, len(value.shape) - 2), are_last=False)
        return [(place, channels, f"in front of everything in {outer}")]

    def _at_layers(self, value: Value, ways: Ways) -> Found | str:
        others = [reading for reading in ways.readings if reading.role is not Role.LAYER]
        if ways.sums or others or ways.is_returned or not ways.readings:
            who = [*others, *ways.sums, "no layer"][0]
            return f"{who} reads it, and has no place in front of it"
        found: Found = []
        for reading in ways.readings:
            site, channels = self.sites.site_of(reading.by), self._taken(reading, value)
            if isinstance(channels, str):
                return channels
            if site is None or site.layer is None or channels is None:
                return f"{reading} reads it, which is no module"
            reader = self._first_reader(reading, value, site.layer)
            place = reader if isinstance(reader, str) else self.places.ahead(reader)
            if isinstance(place, str):
                return f"{reading} reads it, but {place}"
            found.append((place, channels, f"in front of {reader}, which reads the input"))
        return found

    def _first_reader(self, reading: Reading, value: Value, layer: Call) -> Call | str:
        """The layer; or the module that pads in front of it, as its zeros are no inputs."""
        outside = [step for step in reading.way if layer not in step.calls]
        padding = next((step for step in outside if "pad" in str(step.op)), None)
        if padding is None:
            return layer
        around = padding.calls
        takers = [c for c in around if c.name is not None and c.args and c.args[0] is value]
        pads = [
            c for c in takers if kind_of(self.model.get_submodule(c.name or "")) is Kind.PASSIVE
        ]
        return pads[0] if pads else f"{padding} pads it before"

    def _taken(self, reading: Reading, value: Value) -> Channels | str | None:
        site = self.sites.site_of(reading.by)
        if site is None:
            return None
        return of_input(site, reading, value)

    def _takes(self, call: Call, value: Value) -> bool:
        if call.name is None or len(call.args) != 1 or call.args[0] is not value:
            return False
        return is_sequence(self.model.get_submodule(call.name))


def _about(value: Value, what: str) -> str | None:
    """Say why an input cannot be normalized, whoever reads it."""
    if not value.dtype.is_floating_point:
        return (
            f"{what} is {value.dtype}; only floating-point inputs can be standardized. Indices of "
            "an embedding must stay as they are"
        )
    if not 2 <= len(value.shape) <= 5:
        return (
            f"{what} has shape {value.shape}; expected (N, C) or (N, C, *S) with at most three "
            "spatial axes"
        )
    return None
