"""Where the values of a layer go: to which activation, normalization, or next layer."""

import dataclasses
from collections.abc import Iterable

from ..graph.graph import Call, Step, Value
from .roles import Reading, Role, Roles, is_random, is_variable

_DECIDING = (Role.ACTIVATION, Role.NORM, Role.PROBABILITY)
_GATES = ("hardsigmoid", "hardtanh", "relu6", "sigmoid", "softplus")
"""Activations by which, where another value is multiplied by them, they let it pass or not."""


@dataclasses.dataclass
class Ways:
    """What reads a value, past steps that only move it, and past sums."""

    readings: list[Reading] = dataclasses.field(default_factory=list)
    """With the fewest sums on the way to an activation, normalization, or probability."""
    sums: list[Step] = dataclasses.field(default_factory=list)
    """The sums on the way."""
    is_returned: bool = False
    """The model returns it, as it is or moved, without a sum."""

    def of(self, *roles: Role) -> list[Reading]:
        """The readings of one of the roles."""
        return [reading for reading in self.readings if reading.role in roles]


class Follower:
    """Follows values through a graph.

    Args:
        roles: Of the graph's steps.
    """

    def __init__(self, roles: Roles) -> None:
        self.roles = roles

    def ways_of(self, start: Value) -> Ways:
        """Follow a value until something decides what its layer is for."""
        ways = Ways()
        seen: set[int] = set()
        level: list[tuple[Value, tuple[Step, ...]]] = [(start, ())]
        num_sums = 0
        while level:
            sums: list[tuple[Value, tuple[Step, ...]]] = []
            returned = self._spread(level, num_sums > 0, seen, ways.readings, sums)
            ways.is_returned |= returned and num_sums == 0
            ways.sums += [way[-1] for _, way in sums]
            if ways.of(*_DECIDING):
                break
            level = sums
            num_sums += 1
        return ways

    def _spread(
        self,
        level: list[tuple[Value, tuple[Step, ...]]],
        is_behind_sum: bool,
        seen: set[int],
        readings: list[Reading],
        sums: list[tuple[Value, tuple[Step, ...]]],
    ) -> bool:
        returned = False
        open_ = list(level)
        while open_:
            value, way = open_.pop(0)
            returned |= value.is_output
            for step in value.readers:
                if id(step) in seen:
                    continue
                seen.add(id(step))
                role, by = self.roles.of(step)
                on = [(output, (*way, step)) for output in step.outputs]
                if role is Role.PASSIVE:
                    open_ += on
                elif role is Role.SUM:
                    sums += on
                elif not any(other.by is by for other in readings):
                    readings.append(Reading(role, by, way, is_behind_sum))
        return returned

    def reach(self, starts: Iterable[Value]) -> tuple[list[Call | Step], bool]:
        """The layers that values lead to in any way, and whether they lead out of the model."""
        layers: list[Call | Step] = []
        returned = False
        seen: set[int] = set()
        open_ = list(starts)
        while open_:
            value = open_.pop()
            returned |= value.is_output
            for step in value.readers:
                if id(step) in seen:
                    continue
                seen.add(id(step))
                role, by = self.roles.of(step)
                if role is Role.LAYER:
                    layers.append(by)
                else:
                    open_ += step.outputs
        return layers, returned

    def gated(self, start: Value, activation: Reading) -> Step | None:
        """The step that multiplies an activation onto a value that is not of the same layer."""
        if activation.name not in _GATES:
            return None
        for product in self.ways_of_all(activation.outputs).of(Role.PRODUCT):
            step = product.by
            if isinstance(step, Step) and any(self._is_foreign(v, start) for v in step.reads):
                return step
        return None

    def ways_of_all(self, starts: Iterable[Value]) -> Ways:
        """The ways of several values together."""
        together = Ways()
        for start in starts:
            ways = self.ways_of(start)
            together.readings += ways.readings
            together.sums += ways.sums
            together.is_returned |= ways.is_returned
        return together

    def _is_foreign(self, value: Value, start: Value) -> bool:
        """Whether a value varies and does not come from another, but through a layer."""
        if not is_variable(value):
            return False
        seen: set[int] = set()
        open_ = [value]
        while open_:
            one = open_.pop()
            if one is start:
                return False
            if id(one) in seen or one.made_by is None:
                continue
            seen.add(id(one))
            if not is_random(one.made_by) and self.roles.of(one.made_by)[0] is not Role.LAYER:
                open_ += one.made_by.reads
        return True
