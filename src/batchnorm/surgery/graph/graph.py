"""Which tensor feeds what in a model, at each call site, as seen on an example run.

Three levels, each inside the one above: calls of modules, calls of functions (`F.relu`,
`Tensor.view`), and steps, the operators that really ran. A `Value` is what a tensor holds between
two writes, so that an in-place operation ends one value and begins another.

A graph speaks of modules by name, and holds no tensor: it is as good for the model as for a copy.
"""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.utils import _pytree as pytree


@dataclasses.dataclass(eq=False)
class Value:
    """What one tensor holds from the step that makes it to the step that overwrites it."""

    number: int
    shape: tuple[int, ...]
    dtype: torch.dtype
    made_by: "Step | None" = None
    """None for inputs, parameters, buffers, and tensors that the model got from elsewhere."""
    names: tuple[str, ...] = ()
    """Of a parameter or buffer, under every module that has it."""
    varies: bool = False
    """Whether it comes, in part, from an input, or from a tensor that nobody knows."""
    readers: list["Step"] = dataclasses.field(default_factory=list)
    is_output: bool = False
    is_kept: bool = False
    """Something still held the tensor after the run: an attribute, a list, a closure."""
    unseen: list[str] = dataclasses.field(default_factory=list)
    """Calls that give the memory to something that runs no operators, such as NumPy."""
    memory: int = 0
    """The same number for values that lay in the same memory."""

    def __repr__(self) -> str:
        return f"%{self.number}{list(self.shape)}"


@dataclasses.dataclass(eq=False)
class Call:
    """One call of a module or of a function."""

    what: type | Callable[..., Any]
    """The class of the module, or the function."""
    name: str | None
    """Qualified name of the module; None for a function."""
    number: int
    """Counts the calls of this module, from 0."""
    outer: tuple["Call", ...]
    """The calls inside which this one happens, outermost first."""
    args: Any = ()
    kwargs: Any = dataclasses.field(default_factory=dict)
    outputs: Any = None
    """Arguments and results have a `Value` in the place of each tensor."""
    training: bool = False
    is_hooked: bool = False
    """Hooks see what goes into the module and comes out of it."""

    @property
    def module(self) -> "Call | None":
        """The call of a module that this is, or in which it happens; None outside of all."""
        calls = (call for call in (self, *reversed(self.outer)) if call.name is not None)
        return next(calls, None)

    def __str__(self) -> str:
        kind = getattr(self.what, "__name__", str(self.what))
        if self.name is None:
            return f"{kind} in {self.module}" if self.module else kind
        again = f", call {self.number + 1}" if self.number else ""
        return f"{kind} '{self.name or 'the model itself'}'{again}"


@dataclasses.dataclass(eq=False)
class Step:
    """One operator that ran; or a whole call whose inside is not operators (`op` is None)."""

    op: Any
    calls: tuple[Call, ...]
    """The calls inside which it ran, outermost first."""
    args: Any
    kwargs: Any
    outputs: tuple[Value, ...] = ()

    @property
    def reads(self) -> list[Value]:
        """The values it reads, in the order of its arguments."""
        return list(values_in((self.args, self.kwargs)))

    def __str__(self) -> str:
        function = self.calls[-1] if self.calls else None
        if function is not None and (function.name is None or self.op is None):
            return str(function)
        return f"{self.op} in {function}" if function else str(self.op)


@dataclasses.dataclass
class Graph:
    """All that was seen in one run of a model."""

    calls: list[Call] = dataclasses.field(default_factory=list)
    """In the order in which they began."""
    values: list[Value] = dataclasses.field(default_factory=list)
    named: list[Value] = dataclasses.field(default_factory=list)
    """Those of parameters and buffers."""
    decisions: list[str] = dataclasses.field(default_factory=list)
    """Where Python read a number that depends on an input: another input may run other code."""

    def calls_of(self, name: str) -> list[Call]:
        """The calls of a module, under the first of its names."""
        return [call for call in self.calls if call.name == name]

    def tensors_of(self, name: str) -> list[Value]:
        """The parameters and buffers of a module, under any of their names."""
        prefix = f"{name}." if name else ""
        return [value for value in self.named if any(_is_own(n, prefix) for n in value.names)]

    @property
    def eps(self) -> float:
        """The unit in the last place, relative, of the coarsest numbers on the way of an input."""
        dtypes = {value.dtype for value in self.values if value.varies}
        return max((torch.finfo(d).eps for d in dtypes if d.is_floating_point), default=0.0)

    def others_that_read(self, value: Value, reader: "Call | Step") -> str | None:
        """Say who, besides one reader, could see a value; None if it is provably nobody."""
        outside = [step for step in value.readers if not _within(step, reader)]
        if outside:
            return f"{outside[0]} reads it, too"
        if value.is_output:
            return "the model returns it"
        if value.unseen:
            return f"{value.unseen[0]} gives it to something that cannot be seen"
        if value.is_kept:
            return "something keeps it after the run"
        hooked = next((call for call in self.calls if _shows(call, value)), None)
        return f"a hook on {hooked} sees it" if hooked else None

    def reads_elsewhere(self, name: str, owners: set[str]) -> str | None:
        """Say who reads a module's parameters or buffers outside of calls of their owners.

        Args:
            name: The module.
            owners: It, and the modules that share a tensor with it.
        """
        for value in self.tensors_of(name):
            if value.unseen or value.is_output:
                return value.unseen[0] if value.unseen else "the output of the model"
            for step in value.readers:
                if not any(call.name in owners for call in step.calls):
                    return str(step)
        return None


def values_in(tree: Any) -> Iterator[Value]:
    """The values in a nest of tuples, lists, and dicts."""
    return (leaf for leaf in pytree.tree_leaves(tree) if isinstance(leaf, Value))


def _within(step: Step, reader: Call | Step) -> bool:
    return step is reader or reader in step.calls


def _shows(call: Call, value: Value) -> bool:
    return call.is_hooked and any(v is value for v in values_in((call.args, call.outputs)))


def _is_own(name: str, prefix: str) -> bool:
    return name.startswith(prefix) and "." not in name[len(prefix) :]
