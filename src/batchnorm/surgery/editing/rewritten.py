"""A forward made from a graph, in a subclass that is made for it.

The module stays the same object: its attributes, hooks, and names, and what `isinstance` says of
it. It can be copied and pickled: the class is made anew from its source.
"""

import importlib
import linecache
import types
from collections.abc import Mapping
from typing import Any, ClassVar

from torch import fx, nn


class Rewritten:
    """Marks a module whose forward was made from a graph; stands before its class."""

    original: ClassVar[type[nn.Module]]
    """The class that it had."""
    source: ClassVar[str]
    names: ClassVar[Mapping[str, Any]]
    """What the source takes from elsewhere."""

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        cls = type(self)
        state = self.__getstate__()
        return _rebuilt, (cls.original, cls.source, dict(cls.names)), state


def put_back(module: nn.Module, graph: fx.Graph) -> None:
    """Let a module, part of a copy that nobody else has, compute what a graph of it says."""
    code = graph.python_code("self")
    names = {k: v for k, v in code.globals.items() if k in names_in(code.src)}
    module.__class__ = _rewritten(original_of(type(module)), code.src, _portable(names))


def original_of(cls: type[nn.Module]) -> type[nn.Module]:
    """The class that a module had before its forward was rewritten."""
    return cls.original if issubclass(cls, Rewritten) else cls


_CLASSES: dict[tuple[Any, ...], type[nn.Module]] = {}


def _rewritten(original: type, source: str, names: Mapping[str, Any]) -> type[nn.Module]:
    key = (original, source, tuple(sorted((k, _identity(v)) for k, v in names.items())))
    if key not in _CLASSES:
        file = f"<forward of {original.__qualname__}, rewritten {len(_CLASSES)}>"
        linecache.cache[file] = (len(source), None, source.splitlines(keepends=True), file)
        scope = {"inf": float("inf"), "nan": float("nan"), "NoneType": type(None), **_real(names)}
        exec(compile(source, file, "exec"), scope)
        body = {
            "__module__": original.__module__,
            "__qualname__": original.__qualname__,
            "__doc__": original.__doc__,
            "forward": scope["forward"],
            "original": original,
            "source": source,
            "names": names,
        }
        bases = (Rewritten, original)
        _CLASSES[key] = types.new_class(original.__name__, bases, {}, lambda ns: ns.update(body))
    return _CLASSES[key]


def _rebuilt(original: type, source: str, names: Mapping[str, Any]) -> nn.Module:
    """For pickle and copy: an empty module of the class made anew."""
    cls = _rewritten(original, source, names)
    return cls.__new__(cls)


class _Import(str):
    """The name of a Python module, in the place of the module, which has no pickle."""

    __slots__ = ()


def _identity(value: Any) -> str:
    return str(value) if isinstance(value, _Import) else str(id(value))


def _portable(names: Mapping[str, Any]) -> dict[str, Any]:
    return {
        k: _Import(v.__name__) if isinstance(v, types.ModuleType) else v for k, v in names.items()
    }


def _real(names: Mapping[str, Any]) -> dict[str, Any]:
    return {
        k: importlib.import_module(v) if isinstance(v, _Import) else v for k, v in names.items()
    }


def names_in(source: str) -> set[str]:
    """All names that Python code uses."""
    found: set[str] = set()
    codes = [compile(source, "<forward>", "exec")]
    while codes:
        code = codes.pop()
        found.update(code.co_names)
        codes += [c for c in code.co_consts if isinstance(c, types.CodeType)]
    return found
