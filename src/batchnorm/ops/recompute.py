"""What later operations save of our outputs, replaced by how to compute it once more.

An operation that follows a layer saves the layer's output for its own backward pass, beside the
input that the layer has saved. Under the hooks of `Outputs` it is not the output that is saved but
a recipe: the tensors it was computed of, and a function that does so again, bit for bit. What these
are may be outputs, too, as in residual blocks: then the recipe refers to their recipes.

An output is known by its identity and its version, not by its memory: of `y.data` and `y.detach()`
nobody can say whether they count changes together with y, so they are saved.
"""

from collections.abc import Callable
from typing import Any, NamedTuple
from weakref import ReferenceType, ref

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

SMALL = 2**14
"""Outputs of up to so many values are saved: that takes little memory, and a recipe takes time."""

LONGEST = 8
"""Of so many outputs that are made of one another, one is saved. The backward pass asks for the
last of them first, and then has all of them in memory."""

Make = Callable[..., Tensor]

_autograd: Any = torch._C._autograd


def is_active() -> bool:
    """Say whether an output can be offered: the hooks of this thread are those of `Outputs`."""
    return _active() is not None


def offer(output: Tensor, inputs: tuple[Tensor | None, ...], make: Make) -> None:
    """Let an output be computed once more instead of being saved, where that is wanted.

    Args:
        output: What an autograd Function has returned; nobody has changed it yet.
        inputs: The large tensors it was computed of.
        make: Computes from these what equals the output bit for bit, with its strides, in new
            memory. It must not depend on anything that can change in the meantime, autocast
            included, and not refer to the output.
    """
    outputs = _active()
    if outputs is not None:
        outputs.offer(output, inputs, make)


def is_possible() -> bool:
    """Say whether hooks can be set here, and no others are: of two, only one can save."""
    return (
        not torch.compiler.is_compiling()
        and _autograd._top_saved_tensors_default_hooks(True) is None
        and _autograd._saved_tensors_hooks_is_enabled()
    )


def _active() -> "Outputs | None":
    hooks = _autograd._top_saved_tensors_default_hooks(True)
    if hooks is None:
        return None
    owner = getattr(hooks[0], "__self__", None)
    return owner if isinstance(owner, Outputs) else None


class Outputs:
    """The outputs of our layers that are alive, and the hooks that make use of them."""

    def __init__(self) -> None:
        self._known: Any = WeakTensorKeyDictionary()

    def offer(self, output: Tensor, inputs: tuple[Tensor | None, ...], make: Make) -> None:
        """Remember an output for as long as it lives; see the function."""
        if output.numel() <= SMALL or not output.requires_grad or not _is_whole(output):
            return
        if any(t is not None and t.is_inference() for t in inputs):  # it does not count changes
            return
        sources = tuple(None if t is None else self._stand_for(t) for t in inputs)
        recipe = Recipe(output, sources, make)
        if recipe.depth <= LONGEST:
            self._known[output] = _Known(recipe, output._version, ref(output.untyped_storage()))

    def pack(self, tensor: Tensor) -> "Plain | Part":
        """Stand for a tensor: the hook that autograd calls where it would save it."""
        saved = self._stand_for(tensor)
        if isinstance(saved, Part):
            saved.recipe.is_saved_as(saved)
        return saved

    def unpack(self, saved: "Plain | Part") -> Tensor:
        """Give the tensor back: the hook that autograd calls in the backward pass."""
        return saved.value({})

    def clear(self) -> None:
        """Forget the outputs. What stands for them already is not affected."""
        self._known.clear()

    def _stand_for(self, tensor: Tensor) -> "Plain | Part":
        known = self._find(tensor) if self._known else None
        return Plain(tensor) if known is None else Part(known.recipe, tensor)

    def _find(self, tensor: Tensor) -> "_Known | None":
        output = tensor if tensor._base is None else tensor._base
        known: _Known | None = self._known.get(output)
        if known is None or tensor._version != known.version or not known.recipe.is_current():
            return None
        # `output.data = other` does not count as a change.
        if known.storage() is not tensor.untyped_storage():
            return None
        return known if tensor.dtype is output.dtype and not tensor.is_neg() else None


class _Known(NamedTuple):
    recipe: "Recipe"
    version: int
    storage: ReferenceType[torch.UntypedStorage]


def _is_whole(output: Tensor) -> bool:
    return output._base is None and output.untyped_storage().nbytes() == output.nbytes


class Plain:
    """A tensor that is saved, and the check for changes that autograd leaves to its hooks."""

    __slots__ = ("_version", "tensor")

    def __init__(self, tensor: Tensor) -> None:
        # With its history, the output of an operation would keep that operation alive for ever.
        self.tensor = tensor if tensor.is_leaf else tensor.detach()
        self._version = tensor._version

    def is_current(self) -> bool:
        """Say whether nobody has changed it."""
        return self.tensor._version == self._version

    def value(self, made: "dict[Recipe, Tensor]") -> Tensor:
        """Give the tensor, or raise what autograd raises if it was changed."""
        if self.is_current():
            return self.tensor
        raise RuntimeError(
            f"one of the variables needed for gradient computation has been modified by an inplace "
            f"operation: [{self.tensor.type()} {list(self.tensor.shape)}] is at version "
            f"{self.tensor._version}; expected version {self._version} instead. It was saved "
            f"inside batchnorm.recompute(), where the input and the residual of a layer are "
            f"needed to compute its output once more"
        )


class Part:
    """An output that is computed when it is needed, or a view of it."""

    __slots__ = ("__weakref__", "_view", "recipe", "served")

    def __init__(self, recipe: "Recipe", tensor: Tensor) -> None:
        self.recipe = recipe
        self._view = tensor.shape, tensor.stride(), tensor.storage_offset()
        self.served = _NONE
        """The latest backward pass that has asked for it."""

    def value(self, made: "dict[Recipe, Tensor]") -> Tensor:
        """Give the values it had."""
        self.served = torch._C._current_graph_task_id()
        whole = self.recipe.value(made)
        if self._view == (whole.shape, whole.stride(), 0):
            return whole
        return whole.as_strided(*self._view)


_NONE = -1
"""The number of a backward pass where there is none."""


class Recipe:
    """How to compute an output, and its value while this backward pass will need it again."""

    def __init__(
        self, output: Tensor, sources: tuple[Plain | Part | None, ...], make: Make
    ) -> None:
        recipes = [source.recipe for source in sources if isinstance(source, Part)]
        plain = [source for source in sources if isinstance(source, Plain)]
        self.depth: int = 1 + max((recipe.depth for recipe in recipes), default=0)
        self.uses = 0
        """In how many places of other recipes it is needed."""
        for recipe in recipes:
            recipe.uses += 1
        self._saved: list[ReferenceType[Part]] = []
        self.origins: dict[Plain, None] = dict.fromkeys(
            [*plain, *(o for recipe in recipes for o in recipe.origins)]
        )
        self._sources, self._make = sources, make
        self._layout = output.shape, output.stride()
        self._kept: tuple[Tensor, int] | None = None

    def is_saved_as(self, part: Part) -> None:
        """Note that autograd will ask for the output."""
        self._saved.append(ref(part))

    def is_current(self) -> bool:
        """Say whether nothing it is made of has changed."""
        return all(origin.is_current() for origin in self.origins)

    def value(self, made: "dict[Recipe, Tensor]") -> Tensor:
        """Give the output.

        Args:
            made: Values computed for the same request, of which more than one source is made.
        """
        task = torch._C._current_graph_task_id()
        kept, self._kept = self._kept, None
        # A user's own Function may have changed what it was given.
        value = kept[0] if kept and kept[0]._version == kept[1] else self._compute(made)
        if task != _NONE and self._is_awaited(task):
            self._keep(value, is_new=kept is None)
        return value

    def _is_awaited(self, task: int) -> bool:
        # A copy: another thread may just now save the same output.
        parts = (part() for part in tuple(self._saved))
        return any(part is not None and part.served != task for part in parts)

    def _compute(self, made: "dict[Recipe, Tensor]") -> Tensor:
        value = made.get(self)
        if value is not None:
            return value
        inputs = [source if source is None else source.value(made) for source in self._sources]
        with torch.no_grad():
            value = self._make(*inputs)
        if (value.shape, value.stride()) != self._layout:
            raise RuntimeError(
                f"an output of shape and strides {self._layout} was computed once more with "
                f"{(value.shape, value.stride())}"
            )
        if self.uses > 1:
            made[self] = value
        return value

    def _keep(self, value: Tensor, is_new: bool) -> None:
        # As long as autograd would have kept it: each part of a chain then is computed once.
        self._kept = value, value._version
        if is_new:
            # Not all that was saved need be asked for in this pass.
            engine: Any = torch.autograd.Variable._execution_engine
            engine.queue_callback(_Drop(ref(self)))


class _Drop:
    """Forget a kept value at the end of a backward pass."""

    def __init__(self, recipe: "ReferenceType[Recipe]") -> None:
        self._recipe = recipe

    def __call__(self) -> None:
        recipe = self._recipe()
        if recipe is not None:
            recipe._kept = None
