"""Which activation of our layers a module or a function is, its parameters included."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from ..kinds import runs_as

_CLASSES: dict[type[nn.Module], tuple[str, dict[str, Any]]] = {
    nn.ReLU: ("relu", {}),
    nn.LeakyReLU: ("leaky_relu", {"negative_slope": 0.01}),
    nn.ELU: ("elu", {"alpha": 1.0}),
    nn.SiLU: ("silu", {}),
    nn.GELU: ("gelu", {"approximate": "none"}),
    nn.Hardswish: ("hardswish", {}),
    nn.Sigmoid: ("sigmoid", {}),
    nn.Tanh: ("tanh", {}),
}
"""Class -> our name, and what its parameters must be."""

_FUNCTIONS: dict[str, tuple[tuple[str, Any], ...]] = {
    "relu": (),
    "leaky_relu": (("negative_slope", 0.01),),
    "elu": (("alpha", 1.0), ("scale", 1), ("input_scale", 1)),
    "silu": (),
    "gelu": (("approximate", "none"),),
    "hardswish": (),
    "sigmoid": (),
    "tanh": (),
}
"""Name of torch's function -> what its arguments after the first must be, in their order."""


def of_module(module: nn.Module) -> str | None:
    """The activation that a module is.

    Example:
        >>> of_module(nn.ReLU()), of_module(nn.LeakyReLU(0.2)), of_module(nn.GELU("tanh"))
        ('relu', None, None)
    """
    for cls, (name, wanted) in _CLASSES.items():
        if runs_as(module, (cls,)):
            fits = all(getattr(module, key) == value for key, value in wanted.items())
            return name if fits else None
    return None


def of_function(function: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str | None:
    """The activation that a call of a function or method of torch is.

    Args:
        function: Its name; that of an operation in place ends with an underscore.
        args: Positional arguments, the tensor first.
        kwargs: The others.

    Example:
        >>> of_function("relu_", [0], {}), of_function("elu", [0, 2.0], {})
        ('relu', None)
    """
    name = function.removesuffix("_")
    if name not in _FUNCTIONS or len(args) < 1:
        return None
    wanted = dict(_FUNCTIONS[name])
    order = [*wanted, "inplace"]
    if len(args) - 1 > len(order):
        return None
    given = {**dict(zip(order, args[1:], strict=False)), **kwargs}
    given.pop("inplace", None)
    fits = all(key in wanted and wanted[key] == value for key, value in given.items())
    return name if fits else None
