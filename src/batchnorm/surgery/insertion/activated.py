"""Places for a normalization behind an activation: at its module, or at the layers that read it."""

from ..graph.graph import Call, Value
from .channels import Channels, of_activation, of_input, turning
from .places import Places
from .plan import Insertion, weight_of
from .roles import Reading, Role
from .sites import Site, Sites

Planned = list[tuple[Insertion, str]]
"""Insertions, each with its reason."""


class Activated:
    """Finds the places.

    Args:
        sites: The layers of a graph.
        places: Of the same.
    """

    def __init__(self, sites: Sites, places: Places) -> None:
        self.sites, self.places = sites, places

    def place(self, site: Site, reading: Reading) -> Planned | str:
        """Plan the normalization of what an activation gives, or say why there is no place.

        Args:
            site: A layer that the activation follows.
            reading: The activation.
        """
        made = [value for value in reading.outputs if value.readers or value.is_output]
        layers, returned = self.sites.follow.reach(made)
        if not layers:
            what = "the output" if returned else "nothing that a layer reads"
            return f"{reading} gives {what} of the network; normalizing it would destroy it"
        if len(made) != 1:
            return f"{reading} gives {len(made)} tensors"
        norms = self.sites.follow.ways_of(made[0]).of(Role.NORM)
        if norms:
            return f"what {reading} gives is already normalized by {norms[0]}"
        channels = of_activation(site, reading)
        if isinstance(channels, str):
            return channels
        behind = self._behind(site, reading, channels)
        if not isinstance(behind, str):
            return behind
        ahead = self._ahead(reading, made[0], channels)
        return f"{behind}; {ahead}" if isinstance(ahead, str) else ahead

    def _behind(self, site: Site, reading: Reading, channels: Channels) -> Planned | str:
        call = reading.by
        if not isinstance(call, Call) or call.name is None:
            return f"{reading} is the call of a function"
        place = self.places.behind(call, channels.are_last)
        if isinstance(place, str):
            return f"{call}: {place}"
        weight = weight_of(self.sites.model.get_submodule(site.name))
        insertion = place.insertion(channels, weight.dtype, weight.device)
        kind = getattr(call.what, "__name__", "")
        return [(insertion, f"after {kind} '{self.places.position(call)}'")]

    def _ahead(self, reading: Reading, value: Value, channels: Channels) -> Planned | str:
        ways = self.sites.follow.ways_of(value)
        others = [r for r in ways.readings if r.role is not Role.LAYER]
        if ways.sums or others or value.is_output:
            who = [*others, *ways.sums, "the model's caller"][0]
            return f"{who} reads it, not only layers"
        planned: Planned = []
        for layer in ways.readings:
            one = self._ahead_of(layer, value, channels)
            if isinstance(one, str):
                return one
            planned.append((one, f"in front of {layer}, which reads {reading}"))
        return planned

    def _ahead_of(self, layer: Reading, value: Value, channels: Channels) -> Insertion | str:
        site = self.sites.site_of(layer.by)
        if site is None or site.layer is None:
            return f"{layer} reads it, which is no module"
        own = of_input(site, layer, value)
        if isinstance(own, str):
            return own
        if turning(layer.way) or (own.number, own.are_last) != (channels.number, channels.are_last):
            return f"{layer} takes other channels than {value.shape}"
        place = self.places.ahead(site.layer)
        if isinstance(place, str):
            return f"{layer} reads it, but {place}"
        weight = weight_of(self.sites.model.get_submodule(site.name))
        return place.insertion(own, weight.dtype, weight.device)
