"""What is going to be inserted, and the list of it for people. Nothing is edited here."""

import dataclasses
from itertools import chain
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from ...records import Change
from ..changes import Changes
from .walk import qualified

Side = Literal["behind", "output", "input"]


@dataclasses.dataclass(frozen=True)
class Insertion:
    """One batch normalization to build, and its place."""

    parent: str
    """Qualified name of the module that gets it as a child."""
    after: str | None
    """In an `nn.Sequential`, the child it goes behind; None: in front of all."""
    child: str
    """Its own name in its parent."""
    dim: int
    num_features: int
    dtype: torch.dtype
    device: torch.device
    side: Side = "behind"
    """"behind" a child of an `nn.Sequential`; or on a side of its parent, which then holds it."""
    channels_last: bool = False
    """Whether the channels are the last axis there, not axis 1; only where a module holds it."""

    @property
    def name(self) -> str:
        """Its qualified name."""
        return qualified(self.parent, self.child)

    @property
    def follows(self) -> str:
        """Qualified name of the module it goes behind; of its parent if there is none."""
        return qualified(self.parent, self.after) if self.after else self.parent


@dataclasses.dataclass
class Plan:
    """Everything that is going to be edited, and the list of it for people."""

    insertions: list[Insertion] = dataclasses.field(default_factory=list)
    dropped_biases: list[str] = dataclasses.field(default_factory=list)
    changes: Changes = dataclasses.field(default_factory=Changes)

    def leave(self, name: str, reason: str) -> None:
        """Note that nothing is done at a module."""
        self.changes.append(Change(name, "leave alone", reason))

    def insert(self, insertion: Insertion, reason: str) -> None:
        """Note one insertion; nothing if there is one at the same place."""
        if any(other.name == insertion.name for other in self.insertions):
            return
        self.insertions.append(insertion)
        what = f"insert BatchNorm{insertion.dim}d({insertion.num_features})"
        if insertion.channels_last:
            reason += "; the channels are the last axis, and each position counts as a sample"
        self.changes.append(Change(insertion.name, what, reason))

    def drop_bias(self, name: str, module: nn.Module, keep: str | None) -> None:
        """Plan the removal of a bias that the normalization behind it cancels.

        Args:
            name: Of the layer.
            module: The layer; it has a bias.
            keep: Why the bias must stay, if something is known.
        """
        if keep is None and "bias" not in dict(module.named_parameters(recurse=False)):
            keep = "it is computed by a parametrization; behind the normalization it has no effect"
        if keep is None:
            self.dropped_biases.append(name)
            self.changes.append(Change(name, "drop bias", "the normalization behind it cancels it"))
        else:
            self.changes.append(Change(name, "keep bias", keep))


def free_name(parent: nn.Module, wanted: str) -> str:
    """The wanted name, or with the first of the endings 2, 3 ... that is free in the module."""
    name, number = wanted, 1
    while hasattr(parent, name):
        number += 1
        name = f"{wanted}{number}"
    return name


def has_bias(layer: nn.Module) -> bool:
    """Whether a layer adds a bias; one that is computed is not computed for that."""
    # reading a parametrized attribute computes it, and may update the original's buffers
    return is_parametrized(layer, "bias") or layer.bias is not None


def weight_of(layer: nn.Module) -> Tensor:
    """A tensor with the dtype and device of a layer."""
    return next(chain(layer.parameters(), layer.buffers()))
