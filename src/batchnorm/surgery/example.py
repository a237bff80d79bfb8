"""What a model is called with, to see it run."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree


@dataclasses.dataclass(frozen=True)
class Example:
    """The arguments of one call, in any nest of tuples, lists, and dicts."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]

    def copies(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments, with tensors of their own: a model may work in place."""
        args, kwargs = pytree.tree_map(_copy, (self.args, dict(self.kwargs)))
        return args, kwargs

    def double(self) -> "Example":
        """The same example in float64, where it is floating."""
        args, kwargs = pytree.tree_map(_double, (self.args, dict(self.kwargs)))
        return Example(args, kwargs)

    def tensors(self) -> list[Tensor]:
        """The tensors among the arguments, in order."""
        leaves = pytree.tree_leaves((self.args, dict(self.kwargs)))
        return [leaf for leaf in leaves if isinstance(leaf, Tensor)]

    def __str__(self) -> str:
        shapes = [f"{tuple(x.shape)} {x.dtype}" for x in self.tensors()]
        return ", ".join(shapes) or "no tensors"


def _copy(leaf: Any) -> Any:
    return leaf.detach().clone() if isinstance(leaf, Tensor) else leaf


def _double(leaf: Any) -> Any:
    is_floating = isinstance(leaf, Tensor) and leaf.is_floating_point()
    return leaf.to(torch.float64) if is_floating else leaf
