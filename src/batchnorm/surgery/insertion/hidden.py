"""Batch normalization for every hidden layer of a model that was seen running."""

from torch import nn

from ..graph.graph import Call, Graph
from ..kinds import DIM_BY_LAYER, runs_as
from ..normed import only_normalizes
from .activated import Activated
from .channels import of_layer
from .places import Places
from .plan import Insertion, Plan, has_bias, weight_of
from .roles import STEPPING, calls_around
from .sites import Site, Sites

_LAYERS = tuple(DIM_BY_LAYER)


def plan_hidden(model: nn.Module, graph: Graph, where: str) -> Plan:
    """Plan one batch normalization for every hidden layer, and say what becomes of each layer.

    Args:
        model: The model.
        graph: Of its calls.
        where: "before_activation" or "after_activation".
    """
    hidden = Hidden(model, graph)
    if where == "before_activation":
        hidden.before()
    else:
        hidden.after()
    hidden.leave_the_rest()
    return hidden.plan


class Hidden:
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

    def before(self) -> None:
        """Plan a normalization behind every layer that has an activation."""
        found = [(site, site.reason or self._place(site)) for site in self.sites.all]
        normalized = {id(site) for site, place in found if isinstance(place, Insertion)}
        spoken: set[str] = set()
        for site, place in found:
            if isinstance(place, str):
                self._leave(self._name(site), place)
                continue
            self.plan.insert(place, self._explained(site))
            if site.name not in spoken:
                spoken.add(site.name)
                self._drop_bias(site, normalized)

    def after(self) -> None:
        """Plan a normalization behind the activation of every layer that has one."""
        activated = Activated(self.sites, self.places)
        done: dict[int, str | None] = {}
        for site in self.sites.all:
            reason = site.reason
            for reading in () if reason else site.activations:
                if id(reading.by) not in done:
                    planned = activated.place(site, reading)
                    done[id(reading.by)] = planned if isinstance(planned, str) else None
                    for insertion, why in () if isinstance(planned, str) else planned:
                        self.plan.insert(insertion, why)
                reason = reason or done[id(reading.by)]
            if reason:
                self._leave(self._name(site), reason)

    def leave_the_rest(self) -> None:
        """Speak of the activations and layers that were not reached."""
        for reading, reason in self.sites.unfed():
            calls = calls_around(reading.by)
            inside = next((call for call in reversed(calls) if call.name is not None), None)
            who = "" if inside is reading.by else f"{reading}: "
            self._leave((inside.name if inside else "") or "", who + reason)
        called = {call.name for call in self.graph.calls}
        for name, module in self.model.named_modules():
            if isinstance(module, STEPPING) and name in called:
                self._leave(name, "its layers run inside of it, where nothing can be put between")
            elif isinstance(module, _LAYERS) and name not in called and not self._is_inside(name):
                self._leave(name, "it was not called on the example")

    def _place(self, site: Site) -> Insertion | str:
        if site.layer is None:
            return f"{site.call} is the call of a function, not of a module that could hold one"
        channels = of_layer(site)
        if isinstance(channels, str):
            return channels
        module = self.model.get_submodule(site.name)
        place = self.places.behind(site.layer, channels.are_last)
        if isinstance(place, str):
            return place
        if not _is_plain(module):
            reason = _about_forward(site, site.layer)
            if reason:
                return f"its class {type(module).__name__} {reason}"
        weight = weight_of(module)
        return place.insertion(channels, weight.dtype, weight.device)

    def _explained(self, site: Site) -> str:
        first = site.activations[0]
        kind = type(self.model.get_submodule(site.name)).__name__
        before = f"the sum that {first} reads" if first.is_behind_sum else str(first)
        also = f"; {site.others[0]}, too" if site.others else ""
        return f"after {kind} '{self._name(site)}', before {before}{also}"

    def _drop_bias(self, site: Site, normalized: set[int]) -> None:
        module = self.model.get_submodule(site.name)
        if not has_bias(module):
            return
        uses = [other for other in self.sites.all if other.name == site.name]
        num_plain = sum(id(other) not in normalized for other in uses)
        keep = None
        if num_plain:
            keep = f"the layer is shared, and not normalized at {num_plain} other place(s)"
        elif not _is_plain(module):
            keep = "its class has a forward of its own"
        elif module._forward_hooks:
            keep = "a forward hook sees the output of the layer"
        self.plan.drop_bias(site.name, module, keep or self._other_reader(site.name))

    def _other_reader(self, name: str) -> str | None:
        for value in self.graph.tensors_of(name):
            if f"{name}.bias".lstrip(".") not in value.names:
                continue
            owners = {other.rpartition(".")[0] for other in value.names}
            for step in value.readers:
                if not any(call.name in owners for call in step.calls):
                    return f"{step} reads it, too"
        return None

    def _name(self, site: Site) -> str:
        return self.places.position(site.layer) if site.layer is not None else site.name

    def _leave(self, name: str, reason: str) -> None:
        if not any(c.name == name and c.reason == reason for c in self.plan.changes):
            self.plan.leave(name, reason)

    def _is_inside(self, name: str) -> bool:
        return isinstance(self.model.get_submodule(name.rpartition(".")[0]), STEPPING)


def _is_plain(module: nn.Module) -> bool:
    return runs_as(module, _LAYERS) or only_normalizes(module)


def _about_forward(site: Site, layer: Call) -> str | None:
    """Say why no normalization can follow a module of unknown class; None if one can."""
    if any(layer in calls_around(reading.by) for reading in site.activations):
        return "has the activation inside of its forward"
    if getattr(layer.outputs, "shape", None) != site.value.shape:
        return "has a forward that gives something else than the layer"
    return None
