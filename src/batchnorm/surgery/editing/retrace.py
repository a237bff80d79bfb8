"""The forward of one module as a graph that can be edited, and put back into the module.

`torch.fx` follows the forward of the module itself; its children stay calls. What would make the
graph compute something else than the Python code is refused: control flow by values or shapes,
another graph in evaluation than in training, random numbers drawn in Python, attributes that the
forward sets, gradients or autocast switched inside.
"""

import dis
import gc
import operator
import random
import sys
import types
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from torch import fx, nn
from torch.nn.utils import parametrize

from ...errors import SurgeryError
from ..copying import copy_model
from .rewritten import Rewritten, names_in


def trace(module: nn.Module, through: frozenset[str]) -> fx.Graph | str:
    """Follow the forward of a module, in training and in evaluation.

    Args:
        module: Stays untouched; a copy is followed.
        through: Names, inside the module, of those whose forward is followed, too.

    Returns:
        The graph, or what stands in the way.
    """
    reason = _about_class(module)
    if reason:
        return reason
    graphs = []
    for training in (True, False):
        graph = _traced(module, through, training)
        if isinstance(graph, str):
            return graph
        graphs.append(graph)
    codes = [_code_of(graph) for graph in graphs]
    if codes[0] != codes[1]:
        return "its forward does something else in training than in evaluation"
    return graphs[0]


def _about_class(module: nn.Module) -> str | None:
    cls = type(module)
    if "forward" in vars(module):
        return "its forward is an attribute of its own"
    if isinstance(module, (nn.Sequential, nn.ModuleList, nn.ModuleDict, fx.GraphModule)):
        return f"the forward of {cls.__name__} follows its list of modules"
    if parametrize.is_parametrized(module):
        return "it is parametrized"
    plain = cls.__reduce_ex__ in (object.__reduce_ex__, Rewritten.__reduce_ex__)
    if not plain or cls.__reduce__ is not object.__reduce__:
        return f"{cls.__name__} is copied in a way of its own"
    return None


def _traced(module: nn.Module, through: frozenset[str], training: bool) -> fx.Graph | str:
    try:
        scratch = copy_model(module).train(training)
    except SurgeryError as error:
        return str(error)
    before, draws = _attributes(scratch, through), _random_state()
    tracer = _Tracer(through)
    try:
        with torch.set_grad_enabled(training), _Statements() as ran:
            tracer.modes = _modes()
            graph = tracer.trace(scratch)
    except _Refused as error:
        return str(error)
    except Exception as error:
        said = next(iter(str(error).splitlines()), type(error).__name__)
        return f"torch.fx cannot follow its forward: {said}"
    if ran.odd:
        return f"there is a {ran.odd} statement in its forward"
    if _random_state() != draws:
        return "its forward draws random numbers in Python"
    if not _same(before, _attributes(scratch, through)):
        return "its forward sets attributes"
    return graph


def _code_of(graph: fx.Graph) -> tuple[str, dict[str, Any]]:
    code = graph.python_code("self")
    return code.src, {k: v for k, v in code.globals.items() if k in names_in(code.src)}


class _Refused(Exception):
    pass


class _Statements:
    """Looks for statements, in all functions that run inside but torch's, that no graph can hold.

    What a `with` puts around some calls, and what a `try` catches, would silently be lost.
    """

    _ODD: ClassVar[dict[str, str]] = {"PUSH_EXC_INFO": "with or try", "STORE_GLOBAL": "global"}

    def __init__(self) -> None:
        self.odd: str | None = None
        self._known: set[types.CodeType] = set()

    def __enter__(self) -> "_Statements":
        self._collects = gc.isenabled()
        gc.disable()  # libraries hang functions of their own on it
        self._before = sys.getprofile()
        sys.setprofile(self._look)
        return self

    def __exit__(self, *_: object) -> None:
        sys.setprofile(self._before)
        if self._collects:
            gc.enable()

    def _look(self, frame: types.FrameType, event: str, _: Any) -> None:
        code = frame.f_code
        if event != "call" or code in self._known:
            return
        self._known.add(code)
        place = str(frame.f_globals.get("__name__", "")).split(".")[0]
        if place in ("torch", *sys.stdlib_module_names) or frame.f_globals is globals():
            return
        found = {instruction.opname for instruction in dis.get_instructions(code)}
        self.odd = self.odd or next((v for k, v in self._ODD.items() if k in found), None)


class _Proxy(fx.Proxy):
    """Stands for a value; keeps operators in place apart, which torch.fx takes for others."""

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        """Only torch's own code may ask what a value is: it knows of proxies."""
        asked = sys._getframe(1).f_globals.get("__name__", "")
        if asked == __name__ or asked.split(".")[0] == "torch":
            return _Proxy
        raise _Refused("its forward asks for the class of a value")

    def __setitem__(self, key: Any, value: Any) -> None:
        raise _Refused("its forward assigns to a part of a tensor")


def _in_place(name: str) -> Callable[[Any, Any], Any]:
    method = getattr(operator, name)

    def apply(a: Any, b: Any) -> Any:
        return method(a, b)

    apply.__name__ = apply.__qualname__ = name
    apply.__module__ = __name__
    return apply


IN_PLACE = {
    name: _in_place(name)
    for name in (
        *("iadd", "isub", "imul", "itruediv", "ifloordiv", "imod", "ipow", "imatmul"),
        *("iand", "ior", "ixor", "ilshift", "irshift"),
    )
}
"""`a += b` as a function: the tensor `a` itself is changed, and returned; a number is not."""
globals().update(IN_PLACE)  # pickle finds a function by its name


def _method(name: str) -> Callable[[_Proxy, Any], Any]:
    def recorded(self: _Proxy, other: Any) -> Any:
        return self.tracer.create_proxy("call_function", IN_PLACE[name], (self, other), {})

    return recorded


for _name in IN_PLACE:
    setattr(_Proxy, f"__{_name}__", _method(_name))


class _Tracer(fx.Tracer):
    def __init__(self, through: frozenset[str]) -> None:
        super().__init__()
        self.through = through
        self.modes: Any = None

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return module_qualified_name not in self.through

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Proxy(node, self)

    def create_node(self, kind: str, *args: Any, **kwargs: Any) -> fx.Node:
        if self.modes is not None and _modes() != self.modes:
            raise _Refused("its forward switches gradients or autocast")
        return super().create_node(kind, *args, **kwargs)

    def get_fresh_qualname(self, prefix: str) -> str:
        raise _Refused("its forward makes a tensor, or holds one that is no parameter or buffer")


def _modes() -> tuple[bool, ...]:
    return (
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        torch.is_autocast_enabled("cpu"),
        torch.is_autocast_enabled("cuda"),
        torch._C._autograd._top_saved_tensors_default_hooks(True) is None,
    )


def _random_state() -> tuple[Any, ...]:
    return (
        random.getstate(),
        tuple(map(str, np.random.get_state(legacy=True))),  # noqa: NPY002
        bytes(torch.get_rng_state().numpy()),
    )


def _attributes(module: nn.Module, through: frozenset[str]) -> list[dict[str, Any]]:
    parts = [module, *(module.get_submodule(name) for name in sorted(through))]
    return [_flat(vars(part)) for part in parts]


def _flat(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Attributes, and what lies in those that are containers, by identity."""
    found = {}
    for name, value in attributes.items():
        found[name] = value
        if isinstance(value, dict):
            found |= {f"{name}.{key}": item for key, item in value.items()}
        elif isinstance(value, (list, set, tuple)):
            found |= {f"{name}.{i}": item for i, item in enumerate(value)}
    return found


def _same(before: list[dict[str, Any]], after: list[dict[str, Any]]) -> bool:
    return all(
        a.keys() == b.keys() and all(a[name] is b[name] for name in a)
        for a, b in zip(before, after, strict=True)
    )
