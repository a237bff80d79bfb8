"""How many channels a value has, and on which axis."""

import dataclasses

from ..graph.graph import Step, Value
from .roles import Reading, is_variable
from .sites import Site

_TURNING = ("permute", "t", "transpose", "unfold")
"""Operators that bring another axis to the place of the channels."""


@dataclasses.dataclass(frozen=True)
class Channels:
    """The channels of a value, and which normalization is for them."""

    number: int
    dim: int
    """1, 2 or 3: of the normalization's class."""
    are_last: bool
    """Whether they are the last axis of more than two, and not axis 1."""


def of_layer(site: Site) -> Channels | str:
    """The channels that a layer gives, or why they cannot be normalized."""
    return _at(site.value, site.is_linear, site.num_spatial, str(site))


def of_input(site: Site, reading: Reading, value: Value) -> Channels | str:
    """The channels that a layer takes, or why they cannot be normalized.

    Args:
        site: The layer.
        reading: Of the value, by the layer.
        value: What it takes, perhaps moved on the way.
    """
    on_the_way = [value, *(made for step in reading.way for made in step.outputs)]
    given = site.layer.args[0] if site.layer is not None and site.layer.args else None
    if not isinstance(given, Value) or given not in on_the_way:
        return f"{reading} does not take it as its first argument"
    joined = next((step for step in reading.way if _joins(step)), None)
    if joined is not None and given is not value:
        return f"{joined} lays other values beside it before {reading} takes it"
    return _at(given, site.is_linear, site.num_spatial, str(site))


def of_activation(site: Site, reading: Reading) -> Channels | str:
    """The channels that the activation of a layer gives, or why they cannot be normalized."""
    before, made = of_layer(site), reading.outputs
    if isinstance(before, str):
        return before
    turned = turning(reading.way)
    if turned:
        return (
            f"{turned}, between {site} and {reading}, may move the channels to another axis; use "
            "where='before_activation', or put batch normalization in by hand"
        )
    shape = made[-1].shape
    if len(shape) == 2:
        return Channels(shape[1], 1, are_last=False)
    if len(shape) != len(site.value.shape):
        return f"{reading} gives shape {shape}, of which nobody knows where the channels are"
    return Channels(shape[-1 if before.are_last else 1], before.dim, before.are_last)


def _joins(step: Step) -> bool:
    return len({id(value) for value in step.reads if is_variable(value)}) > 1


def turning(way: tuple[Step, ...]) -> Step | None:
    """The first step that may move the channels to another axis."""
    return next((s for s in way if s.op and s.op.overloadpacket.__name__ in _TURNING), None)


def _at(value: Value, is_linear: bool, num_spatial: int, who: str) -> Channels | str:
    num_axes = len(value.shape)
    if (is_linear and num_axes < 2) or (not is_linear and num_axes != num_spatial + 2):
        return (
            f"{who} runs on shape {value.shape}, without a batch axis; give insert a batch as "
            "example, for example example.unsqueeze(0)"
        )
    if is_linear:
        return Channels(value.shape[-1], 1, are_last=num_axes > 2)
    return Channels(value.shape[1], num_spatial, are_last=False)
