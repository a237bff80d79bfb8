"""Where in a model the normalization of a value can be put without changing the code around it."""

import dataclasses

import torch
from torch import nn

from ..graph.graph import Call, Graph
from ..kinds import is_sequence
from ..normed import can_hold
from .channels import Channels
from .plan import Insertion, Side, free_name
from .walk import qualified

_WITHOUT_CALLS = (nn.TransformerEncoderLayer, nn.MultiheadAttention)
"""Modules with a kernel of their own that takes the weights of their layers."""


@dataclasses.dataclass(frozen=True)
class Place:
    """A free place beside a module."""

    parent: str
    after: str | None
    child: str
    side: Side

    def insertion(self, channels: Channels, dtype: torch.dtype, device: torch.device) -> Insertion:
        """The normalization of some channels, put here."""
        dim, number = channels.dim, channels.number
        last = channels.are_last
        where = (self.parent, self.after, self.child)
        return Insertion(*where, dim, number, dtype, device, self.side, last)


class Places:
    """The places of a model.

    Args:
        model: The model.
        graph: Of its calls.
    """

    def __init__(self, model: nn.Module, graph: Graph) -> None:
        self.model, self.graph = model, graph

    def behind(self, call: Call, channels_last: bool) -> Place | str:
        """The place where the output of a call of a module can be normalized, or why there is none.

        Args:
            call: Of the module.
            channels_last: Whether the channels are the last axis there, and not axis 1.
        """
        where = self._in_sequence(call)
        if where is not None and not channels_last:
            parent, key = where
            if len(self.graph.calls_of(parent)) > 1:
                return self._shared(parent)
            child = free_name(self.model.get_submodule(parent), f"{key}_norm")
            return Place(parent, key, child, "behind")
        return self._beside(call, "output")

    def ahead(self, call: Call) -> Place | str:
        """The place where what a call of a module takes can be normalized, or why there is none."""
        module = self.model.get_submodule(call.name or "")
        if not is_sequence(module):
            return self._beside(call, "input")
        if len(self.graph.calls_of(call.name or "")) > 1:
            return self._shared(call.name or "")
        return Place(call.name or "", None, free_name(module, "input_norm"), "behind")

    def position(self, call: Call) -> str:
        """The name of a module at a call, which differs from call to call if it is shared."""
        where = self._in_sequence(call)
        return qualified(*where) if where is not None else call.name or ""

    def _beside(self, call: Call, side: Side) -> Place | str:
        name = call.name or ""
        module = self.model.get_submodule(name)
        if len(self.graph.calls_of(name)) > 1:
            return self._shared(name)
        owner = self.model.get_submodule(name.rpartition(".")[0])
        if name and isinstance(owner, _WITHOUT_CALLS):
            return (
                f"in evaluation {type(owner).__name__} may read its weight and not call it, which "
                "would skip a normalization"
            )
        if not can_hold(module, side):
            return (
                f"{type(module).__name__} '{name}' has a forward of its instance alone, or is "
                "normalized already; put it into an nn.Sequential, or normalize by hand"
            )
        return Place(name, None, "norm" if side == "output" else "input_norm", side)

    def _shared(self, name: str) -> str:
        module = self.model.get_submodule(name)
        number = len(self.graph.calls_of(name))
        return (
            f"{type(module).__name__} '{name}' is called {number} times, and its calls would share "
            "the statistics of one normalization"
        )

    def _in_sequence(self, call: Call) -> tuple[str, str] | None:
        """The `nn.Sequential` that makes a call, and the name by which it does."""
        parent = _caller(call)
        if parent is None or not is_sequence(self.model.get_submodule(parent.name or "")):
            return None
        children = self.model.get_submodule(parent.name or "")._modules
        made = [c for c in self.graph.calls if c.name is not None and _caller(c) is parent]
        ran = [self.model.get_submodule(c.name or "") for c in made]
        if [id(module) for module in children.values()] != [id(module) for module in ran]:
            return None
        return parent.name or "", list(children)[made.index(call)]


def _caller(call: Call) -> Call | None:
    return next((outer for outer in reversed(call.outer) if outer.name is not None), None)
