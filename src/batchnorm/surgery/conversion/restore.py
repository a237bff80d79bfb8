"""Activations and forwards given back by layers of ours that become layers of torch."""

from collections.abc import Iterator
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from ...nn.batch_norm import BatchNorm
from ...nn.frozen import is_frozen, release_statistics
from ..editing.leftover import leftover
from ..editing.rewritten import Rewritten
from ..kinds import is_sequence
from .activated import ACTIVATED
from .layers import become_torchs
from .swallow import Swallowed


def givers(model: nn.Module, names: list[str]) -> set[str]:
    """Layers that took in what follows them, and can give it back as it was.

    A module that was changed for several layers gets its own back only if all of them give.

    Args:
        model: The model.
        names: Of the layers that become layers of torch.
    """
    took = {name: took_in(model.get_submodule(name)) for name in names}
    giving = {name for name, taken in took.items() if taken is not None}
    while True:
        tokens = {taken[0] for name in giving if (taken := took[name]) is not None}
        kept = {t for module, all_of in _changed(model) if set(all_of) <= tokens for t in all_of}
        left = {name for name in giving if (taken := took[name]) is not None and taken[0] in kept}
        if left == giving:
            return giving
        giving = left


def took_in(layer: nn.Module) -> tuple[str, str | None, bool] | None:
    """What `convert` let a layer take in, if it is still so: token, activation, residual."""
    taken: tuple[str, str | None, bool] | None = vars(layer).get("swallowed")
    return taken if taken and taken[1] == getattr(layer, "activation", None) else None


def give_back(model: nn.Module, names: set[str]) -> None:
    """Let modules be again what they were before some layers took in what follows them.

    Args:
        model: A copy that nobody else has.
        names: As of `givers`.
    """
    layers = [model.get_submodule(name) for name in names]
    tokens = {taken[0] for layer in layers if (taken := took_in(layer)) is not None}
    for module, all_of in list(_changed(model)):
        if set(all_of) <= tokens:
            original = vars(module).pop("original", None) or type(module).original  # type: ignore[attr-defined]
            module.__class__ = original
            del module.tokens


def become_what_it_was(model: nn.Module, name: str, cls: type[nn.Module], gives: bool) -> str:
    """Turn a layer of ours into one of torch, or of the library that it came from.

    Args:
        model: A copy that nobody else has.
        name: Of the layer.
        cls: The class of torch.
        gives: Whether another module does again what the layer took in.

    Returns:
        What was done about its activation, in words; empty where it had none.
    """
    layer = model.get_submodule(name)
    activation, said = getattr(layer, "activation", None), ""
    has_residual = vars(layer).pop("swallowed", (None, None, False))[2] and not gives
    origin = vars(layer).pop("came_from", None)
    if origin is not None and (gives or activation == origin[2]):
        _become_origin(layer, *origin[:2])
        return ""
    become_torchs(layer, cls)
    if gives or not (activation or has_residual) or cls not in ACTIVATED:
        return ""
    if activation and not has_residual and _put_behind(model, layer, activation):
        return f"{activation} follows it"
    become_torchs(layer, ACTIVATED[cls])
    layer.activation = activation  # type: ignore[assignment]
    said = " and ".join(x for x in ("a residual" if has_residual else "", activation) if x)
    return f"with {said} in its forward"


def _become_origin(layer: nn.Module, origin: type[nn.Module], added: tuple[str, ...]) -> None:
    if isinstance(layer, _BatchNorm) and is_frozen(layer) and not issubclass(origin, _BatchNorm):
        release_statistics(layer)
    become_torchs(layer, origin)
    for name in added:
        vars(layer).pop(name, None)


def _put_behind(model: nn.Module, layer: nn.Module, activation: str) -> bool:
    """Put the activation behind a layer, if all that call it are sequences."""
    parents = [m for m in model.modules() if any(c is layer for c in m._modules.values())]
    if not parents or not all(is_sequence(parent) for parent in parents):
        return False
    act = leftover(activation, has_residual=False).train(layer.training)
    for parent in parents:
        children = dict(parent._modules)
        parent._modules.clear()
        for name, child in children.items():
            parent._modules[name] = child
            if child is layer:
                parent._modules[f"{name}_{activation}"] = act
    return True


def _changed(model: nn.Module) -> Iterator[tuple[nn.Module, tuple[Any, ...]]]:
    for module in model.modules():
        if isinstance(module, (Swallowed, Rewritten)) and not isinstance(module, BatchNorm):
            yield module, vars(module).get("tokens", ())
