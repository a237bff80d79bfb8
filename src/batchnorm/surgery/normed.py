"""Layers and activations that hold a normalization of their own, in front of them or behind.

Surgery changes the class of a module to one of these, so that nothing around it changes: `conv1`
stays `conv1`, with its `conv1.weight`, its hooks and its options; `conv1.norm` comes on top.
"""

from collections.abc import Iterable
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from .kinds import ACTIVATIONS, DIM_BY_LAYER

Class = type[nn.Module]


class PostNorm(nn.Module):
    """What its class computes, normalized: y = norm(forward(x))."""

    norm: nn.Module
    output_channels_last: bool
    """Whether the channels are the last axis of the output, not axis 1."""

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """Compute, then normalize."""
        output = super().forward(*args, **kwargs)
        return normalized(self.norm, output, self.output_channels_last)


class PreNorm(nn.Module):
    """What its class computes of a normalized input: y = forward(norm(x))."""

    input_norm: nn.Module
    input_channels_last: bool
    """Whether the channels are the last axis of the input, not axis 1."""

    def forward(self, input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Normalize, then compute."""
        input = normalized(self.input_norm, input, self.input_channels_last)
        return cast(Tensor, super().forward(input, *args, **kwargs))


def normalized(norm: nn.Module, x: Tensor, channels_last: bool) -> Tensor:
    """Normalize values whose channels are axis 1, or the last axis; there each position counts."""
    if not channels_last:
        return cast(Tensor, norm(x))
    return cast(Tensor, norm(x.reshape(-1, x.shape[-1]))).reshape(x.shape)


def _made(mixin: Class, base: Class, **members: object) -> Class:
    doc = f"`{base.__name__}` with a normalization of its own: see `{mixin.__name__}`."
    name = f"{mixin.__name__}{base.__name__}"
    return type(name, (mixin, base), {"__module__": __name__, "__doc__": doc, **members})


def _named(mixin: Class, bases: Iterable[Class]) -> dict[Class, Class]:
    """The classes for those of torch, under names by which pickle finds them."""
    classes = {base: _made(mixin, base) for base in bases}
    globals().update({cls.__name__: cls for cls in classes.values()})
    return classes


_POST = _named(PostNorm, (*DIM_BY_LAYER, *ACTIVATIONS))
_PRE = _named(PreNorm, DIM_BY_LAYER)
_BOTH = _named(PostNorm, _PRE.values())
_BEHIND = _POST | _BOTH
_AHEAD = _PRE | {_POST[base]: _BOTH[pre] for base, pre in _PRE.items()}


_OTHERS: dict[tuple[Class, str], Class] = {}


def _class_on(base: Class, side: str) -> Class:
    known = (_BEHIND if side == "output" else _AHEAD).get(base)
    if known is not None:
        return known
    if (base, side) not in _OTHERS:
        mixin: Class = PostNorm if side == "output" else PreNorm
        _OTHERS[base, side] = _made(mixin, base, _side=(base, side), __reduce_ex__=_reduced)
    return _OTHERS[base, side]


def _reduced(module: Any, protocol: int) -> tuple[Any, ...]:
    """How pickle and copy make a module of a class that is no attribute of a file."""
    return _unreduced, type(module)._side, vars(module)


def _unreduced(base: Class, side: str) -> nn.Module:
    cls = _class_on(base, side)
    return cls.__new__(cls)


def can_hold(module: nn.Module, side: str) -> bool:
    """Whether a module can get a normalization of its own on a side, "input" or "output"."""
    mixin = PostNorm if side == "output" else PreNorm
    is_script = isinstance(module, torch.jit.ScriptModule)
    return not (isinstance(module, mixin) or is_script or "forward" in vars(module))


def hold(module: nn.Module, side: str, norm: nn.Module, channels_last: bool) -> None:
    """Give a module a normalization of its own, in its mode.

    Args:
        module: Part of a copy that nobody else has; `can_hold` it.
        side: "output": what it gives is normalized; "input": what it takes is.
        norm: The normalization.
        channels_last: Whether the channels are the last axis there, not axis 1.
    """
    cls = _class_on(_class_of(module), side)
    if is_parametrized(module):  # the properties of its class compute the weights
        own = {k: v for k, v in vars(type(module)).items() if k not in ("__dict__", "__weakref__")}
        cls = type(type(module).__name__, (cls,), own)
    module.__class__ = cls
    norm.train(module.training)
    setattr(module, f"{side}_channels_last", channels_last)
    module.add_module("norm" if side == "output" else "input_norm", norm)


def only_normalizes(module: nn.Module) -> bool:
    """Whether a module computes what a layer of torch does, and normalizes besides."""
    bare = _class_of(module)
    while bare.__bases__[0] in (PostNorm, PreNorm):
        bare = bare.__bases__[1]
    layer = next((cls for cls in DIM_BY_LAYER if issubclass(bare, cls)), None)
    is_held = isinstance(module, (PostNorm, PreNorm))
    return is_held and layer is not None and bare.forward is layer.forward


def _class_of(module: nn.Module) -> Class:
    return type(module).__bases__[0] if is_parametrized(module) else type(module)
