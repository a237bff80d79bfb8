"""The graph of a run while it is being recorded: which value each tensor holds, at each moment."""

import gc
import weakref
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from .graph import Call, Graph, Step, Value, values_in

DECIDING = frozenset(("_local_scalar_dense", "equal", "is_nonzero"))
"""Operators that give numbers of a tensor to Python."""

_PLAIN = (int, float, complex, str, type(None), torch.dtype, torch.device)


class Tape:
    """The graph while it is being recorded."""

    def __init__(self) -> None:
        self.graph = Graph()
        self.open: list[Call] = []
        self.latest: Call | None = None
        self.is_idle = True  # what recording itself calls is not recorded
        self._values: dict[int, Value] = {}
        self._tensors: dict[int, Tensor] = {}  # alive, so that no id is used twice
        self._aliases: dict[int, list[int]] = {}
        self._counts: dict[str, int] = {}

    def know(self, model: nn.Module) -> None:
        """Give the parameters and buffers of a model their values, and names."""
        names: dict[int, list[str]] = {}
        tensors: dict[int, Tensor] = {}
        for prefix, module in model.named_modules():
            own = {**module._parameters, **module._buffers}
            for name, tensor in own.items():
                if tensor is not None:
                    tensors[id(tensor)] = tensor
                    names.setdefault(id(tensor), []).append(f"{prefix}.{name}" if prefix else name)
        for key, tensor in tensors.items():
            self._add(tensor, names=tuple(names[key]))

    def know_inputs(self, tree: Any) -> None:
        """Give the tensors that the model is called with their values."""
        for tensor in tensors_in(tree):
            if id(tensor) not in self._values:
                self._add(tensor, varies=True)

    def enter(self, what: Any, name: str | None, args: Any, kwargs: Any) -> Call:
        """Begin a call."""
        number = 0
        if name is not None:
            number = self._counts.get(name, 0)
            self._counts[name] = number + 1
        call = Call(what, name, number, tuple(self.open))
        call.args, call.kwargs = self._seen(args), self._seen(kwargs)
        self.open.append(call)
        self.graph.calls.append(call)
        self.latest = call
        return call

    def leave(self, call: Call, output: Any) -> None:
        """End a call, and those inside it that an exception ended."""
        if call not in self.open:
            return
        del self.open[self.open.index(call) :]
        call.outputs = self._seen(output)

    def made_inside(self, call: Call, output: Any) -> None:
        """Take a call whose inside is not operators for one step, which made its outputs."""
        step = Step(None, (*self.open, call), call.args, call.kwargs)
        taken = set(map(id, values_in((call.args, call.kwargs))))
        self._read(step)
        new = [t for t in tensors_in(output) if id(self._value(t)) not in taken]
        step.outputs = tuple(self._add(tensor, step) for tensor in new)

    def record(self, op: Any, args: Any, kwargs: Any) -> Step:
        """Note what an operator is about to read."""
        if op.overloadpacket.__name__ == "lift_fresh":
            self._know_constants(args)
        step = Step(op, tuple(self.open), self._seen(args), self._seen(kwargs))
        self._read(step)
        if op.overloadpacket.__name__ in DECIDING and any(v.varies for v in step.reads):
            self.graph.decisions.append(str(step))
        return step

    def _know_constants(self, args: Any) -> None:
        """Take what `torch.tensor` makes of Python's numbers for fixed.

        Unless some may come from an input: a value was read before, or memory went out of sight.
        """
        may_vary = bool(self.graph.decisions) or any(v.unseen for v in self.graph.values)
        for tensor in tensors_in(args):
            if id(tensor) not in self._values and not self._aliases.get(_memory(tensor)):
                self._add(tensor, varies=may_vary)

    def made(self, step: Step, args: Sequence[Any], kwargs: Any, output: Any) -> None:
        """Note what an operator has written and made."""
        written = []
        for tensor in _written(step.op, args, kwargs):
            written += self._overwrite(tensor, step)
        new = [t for t in tensors_in(output) if id(t) not in self._values]
        step.outputs = (*written, *(self._add(tensor, step) for tensor in new))

    def hide(self, call: Call) -> None:
        """Note that the memory of the arguments goes where no operators are seen."""
        for value in values_in((call.args, call.kwargs)):
            value.unseen.append(str(call))

    def finish(self, model: nn.Module, output: Any) -> Graph:
        """Note what is returned, and what is still held by somebody; let go of all tensors."""
        for tensor in tensors_in(output):
            self._value(tensor).is_output = True
        refs = [
            (weakref.ref(tensor), value)
            for tensor, value in ((t, self._values[key]) for key, t in self._tensors.items())
            if value.made_by is not None and not value.is_output
        ]
        self._tensors.clear()
        if any(ref() is not None for ref, _ in refs):
            gc.collect()  # a cycle is nobody
        for ref, value in refs:
            value.is_kept = ref() is not None
        del model, output  # alive until here, with all they hold
        return self.graph

    def _value(self, tensor: Tensor) -> Value:
        value = self._values.get(id(tensor))
        if value is not None:
            return value
        known = [self._values[key] for key in self._aliases.get(_memory(tensor), ())]
        if not known:
            return self._add(tensor, varies=True)  # from elsewhere, and so anything
        step = Step(None, tuple(self.open), tuple(known), {})  # for example `x.data`
        self._read(step)
        step.outputs = (self._add(tensor, step),)
        return step.outputs[0]

    def _add(
        self,
        tensor: Tensor,
        made_by: Step | None = None,
        names: tuple[str, ...] = (),
        varies: bool = False,
    ) -> Value:
        value = Value(len(self.graph.values), tuple(tensor.shape), tensor.dtype, made_by, names)
        value.varies = varies or (made_by is not None and any(v.varies for v in made_by.reads))
        value.memory = _memory(tensor)
        self.graph.values.append(value)
        if names:
            self.graph.named.append(value)
        if id(tensor) not in self._tensors:
            self._tensors[id(tensor)] = tensor
            self._aliases.setdefault(_memory(tensor), []).append(id(tensor))
        self._values[id(tensor)] = value
        return value

    def _overwrite(self, tensor: Tensor, step: Step) -> list[Value]:
        self._value(tensor)
        keys = self._aliases[_memory(tensor)]
        return [self._add(self._tensors[key], step) for key in keys]

    def _read(self, step: Step) -> None:
        for value in step.reads:
            if step not in value.readers:
                value.readers.append(step)

    def _seen(self, tree: Any) -> Any:
        return pytree.tree_map(self._leaf, tree)

    def _leaf(self, leaf: Any) -> Any:
        if isinstance(leaf, Tensor):
            return self._value(leaf)
        is_plain = isinstance(leaf, _PLAIN) or type(leaf).__module__ == "torch"
        return leaf if is_plain else f"<{type(leaf).__name__}>"


def tensors_in(tree: Any) -> list[Tensor]:
    """The tensors in a nest of tuples, lists, and dicts."""
    return [leaf for leaf in pytree.tree_leaves(tree) if isinstance(leaf, Tensor)]


def _written(op: Any, args: Sequence[Any], kwargs: Any) -> list[Tensor]:
    written = []
    for i, argument in enumerate(op._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            given = args[i] if i < len(args) else kwargs.get(argument.name)
            written += tensors_in(given)
    return written


def _memory(tensor: Tensor) -> int:
    try:
        return int(tensor.untyped_storage()._cdata)
    except NotImplementedError:  # sparse, or of another backend: no view shares it
        return -id(tensor)
