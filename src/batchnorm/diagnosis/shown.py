"""What a model is first called with, kept as the example on which it is watched."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ..surgery.example import Example


class Shown:
    """Holds an example.

    Args:
        given: Positional arguments that the user has given, or None.
    """

    def __init__(self, given: Sequence[Any] | None) -> None:
        self.example = None if given is None else Example(tuple(given), {})

    @contextmanager
    def by(self, model: nn.Module) -> Iterator[None]:
        """Take a copy of what the model itself is first called with in the block, if need be."""
        handle = model.register_forward_pre_hook(self._keep, with_kwargs=True)
        try:
            yield
        finally:
            handle.remove()

    def _keep(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self.example is None:
            self.example = Example(*pytree.tree_map(_detached, (args, kwargs)))


def _detached(leaf: Any) -> Any:
    return leaf.detach().clone() if isinstance(leaf, Tensor) else leaf
