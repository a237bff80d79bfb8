"""What keeps a layer frozen, whatever `.train()` says, and what it takes to undo that.

A layer of ours asks its own attribute. A layer of torch asks only `training`, and so does every
subclass of one: there an attribute `train` of the instance stands before the method of the class
and keeps `training` False. Neither changes a class or a state_dict, and copies and pickles have it.
"""

from dataclasses import dataclass
from typing import cast

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from .running import Running


@dataclass(eq=False)
class Holder:
    """Stands for `layer.train` of a frozen layer of torch.

    Args:
        layer: The layer.
        wanted: What `training` would be by now if the layer were not frozen.
    """

    layer: _BatchNorm
    wanted: bool

    def __call__(self, mode: bool = True) -> nn.Module:
        """Note the mode for later; modules inside the layer follow it now."""
        if not isinstance(mode, bool):
            raise ValueError(f"expected the mode to be a bool, found {mode!r}")
        self.wanted = mode
        for child in self.layer.children():
            child.train(mode)
        return self.layer


def is_frozen(layer: nn.Module) -> bool:
    """Say whether `freeze` has frozen the statistics of a layer.

    Example:
        >>> from batchnorm import BatchNorm1d, freeze
        >>> layer = BatchNorm1d(2)
        >>> _ = freeze(layer)
        >>> is_frozen(layer)
        True
    """
    if isinstance(layer, Running):
        return layer.frozen_statistics
    return isinstance(layer.__dict__.get("train"), Holder)


def hold_statistics(layer: _BatchNorm) -> None:
    """Let a layer normalize by its running statistics, and leave them alone."""
    if isinstance(layer, Running):
        layer.frozen_statistics = True
    elif not is_frozen(layer):
        holder = Holder(layer, layer.training)
        layer.training = False
        layer.train = holder  # type: ignore[method-assign, assignment]


def release_statistics(layer: _BatchNorm) -> None:
    """Undo `hold_statistics`; the mode is the one that was asked for last."""
    if isinstance(layer, Running):
        layer.__dict__.pop("frozen_statistics", None)
    elif is_frozen(layer):
        layer.training = cast(Holder, layer.__dict__.pop("train")).wanted


def held_parameters(layer: nn.Module) -> tuple[str, ...]:
    """Names of the parameters from which `hold_parameters` has taken the gradient."""
    names: tuple[str, ...] = layer.__dict__.get("frozen_affine", ())
    return names


def hold_parameters(layer: _BatchNorm, names: tuple[str, ...]) -> None:
    """Take the gradient from parameters of a layer, and drop what there is of it.

    An optimizer moves a parameter whose gradient is 0 (by momentum and decay), not one whose
    gradient is None.
    """
    parameters = dict(layer.named_parameters())
    for name in names:
        parameters[name].requires_grad_(False)
        parameters[name].grad = None
    layer.frozen_affine = (*held_parameters(layer), *names)  # type: ignore[assignment]


def release_parameters(layer: _BatchNorm) -> None:
    """Undo `hold_parameters`."""
    parameters = dict(layer.named_parameters())
    for name in layer.__dict__.pop("frozen_affine", ()):
        if name in parameters:
            parameters[name].requires_grad_(True)
