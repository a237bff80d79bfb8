"""Layers and activations that hold a normalization of their own, in front of them or behind.

Surgery changes the class of a module to one of these, so that nothing around it changes: `conv1`
stays `conv1`, with its `conv1.weight`, its hooks and its options; `conv1.norm` comes on top.
"""

from typing import Any, cast

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
    if not channels_last or x.dim() == 2:
        return cast(Tensor, norm(x))
    return cast(Tensor, norm(x.reshape(-1, x.shape[-1]))).reshape(x.shape)


def _with(mixin: Class, base: Class) -> Class:
    name = f"{mixin.__name__}{base.__name__}"
    doc = f"`{base.__name__}` with a normalization of its own: see `{mixin.__name__}`."
    cls = type(name, (mixin, base), {"__module__": __name__, "__doc__": doc})
    globals()[name] = cls  # by which pickle finds it
    return cls


_POST = {base: _with(PostNorm, base) for base in (*DIM_BY_LAYER, *ACTIVATIONS)}
_PRE = {base: _with(PreNorm, base) for base in DIM_BY_LAYER}
_BOTH = {base: _with(PostNorm, pre) for base, pre in _PRE.items()}

_BEHIND: dict[Class, Class] = _POST | {_PRE[base]: both for base, both in _BOTH.items()}
_AHEAD: dict[Class, Class] = _PRE | {_POST[base]: both for base, both in _BOTH.items()}


def can_hold(module: nn.Module, side: str) -> bool:
    """Whether there is a class for a module with a normalization on a side, "input" or "output"."""
    return _class_of(module) in _table(side) and "forward" not in vars(module)


def hold(module: nn.Module, side: str, norm: nn.Module, channels_last: bool) -> None:
    """Give a module a normalization of its own, in its mode.

    Args:
        module: Part of a copy that nobody else has; `can_hold` it.
        side: "output": what it gives is normalized; "input": what it takes is.
        norm: The normalization.
        channels_last: Whether the channels are the last axis there, not axis 1.
    """
    cls = _table(side)[_class_of(module)]
    if is_parametrized(module):  # the properties of its class compute the weights
        own = {k: v for k, v in vars(type(module)).items() if k not in ("__dict__", "__weakref__")}
        cls = type(type(module).__name__, (cls,), own)
    module.__class__ = cls
    norm.train(module.training)
    prefix = "" if side == "output" else "input_"
    setattr(module, f"{side}_channels_last", channels_last)
    module.add_module(f"{prefix}norm", norm)


def _table(side: str) -> dict[Class, Class]:
    return _BEHIND if side == "output" else _AHEAD


def _class_of(module: nn.Module) -> Class:
    return type(module).__bases__[0] if is_parametrized(module) else type(module)


def only_normalizes(module: nn.Module) -> bool:
    """Whether a module computes what its class of torch does, and normalizes besides."""
    return isinstance(module, (PostNorm, PreNorm)) and _class_of(module) in {
        *_POST.values(),
        *_PRE.values(),
        *_BOTH.values(),
    }
