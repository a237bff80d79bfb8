"""Batch normalization that no longer learns, in place, until it is let go again."""

from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..errors import OptionError, SurgeryError
from ..nn import frozen
from ..records import Change
from .changes import Changes
from .kinds import is_lazy

LEAVE = "leave"


def freeze(model: nn.Module, statistics: bool = True, affine: bool = True) -> Changes:
    """Freeze all batch normalization of a model, in place; `.train()` does not undo it.

    A layer whose statistics are frozen normalizes by its running statistics and leaves them alone,
    also in training. Frozen affine parameters get no gradients; a gradient that is there is
    dropped, so that an optimizer which has the parameter leaves it alone. Classes, parameters,
    `state_dict`, momentum and counters stay as they are; `training` of a layer of torch is False
    as long as its statistics are frozen. Copies of the model are frozen as well.

    Args:
        model: A model, or a layer; the layers of this library and those of torch,
            `SyncBatchNorm` included, are found at any depth.
        statistics: Freeze the running statistics.
        affine: Freeze weight and bias.

    Returns:
        One printable `Change` for each layer, also for those that are left as they are.

    Raises:
        SurgeryError: A lazy layer has had no input yet; nothing has changed then.
        OptionError: There is nothing to freeze.

    Example:
        >>> from batchnorm import BatchNorm1d
        >>> model = nn.Sequential(nn.Linear(3, 2), BatchNorm1d(2), nn.ReLU())
        >>> print(freeze(model))
        1: freeze statistics and affine (normalizes by its running statistics, also in training)
        >>> y = model.train()(torch.randn(8, 3))
        >>> model[1].running_mean, model[1].num_batches_tracked
        (tensor([0., 0.]), tensor(0))
    """
    _check_options(statistics, affine)
    layers = _layers(model)
    _refuse_lazy(layers)
    # All is looked up before anything is changed: layers may share a parameter.
    learning = {name: _learning(layer) if affine else () for name, layer in layers.items()}
    changes = Changes()
    for name, layer in layers.items():
        what = []
        if statistics and _keeps_statistics(layer) and not frozen.is_frozen(layer):
            frozen.hold_statistics(layer)
            what.append("statistics")
        if learning[name]:
            frozen.hold_parameters(layer, learning[name])
            what.append("affine")
        changes.append(_frozen(name, layer, what, statistics))
    changes += _scripted(model)
    return changes


def unfreeze(model: nn.Module, statistics: bool = True, affine: bool = True) -> Changes:
    """Undo `freeze`, in place: every layer learns again what it learned before.

    Only what `freeze` has frozen is let go. A layer of torch is put in the mode that `.train()` or
    `.eval()` has asked for last.

    Args:
        model: A model, or a layer; may be a part of what was frozen.
        statistics: Let the running statistics go.
        affine: Let weight and bias go.

    Returns:
        One printable `Change` for each layer.

    Raises:
        OptionError: There is nothing to let go.

    Example:
        >>> from batchnorm import BatchNorm1d
        >>> layer = BatchNorm1d(2)
        >>> _ = freeze(layer)
        >>> print(unfreeze(layer, affine=False))
        (model): unfreeze statistics (as before freeze)
        >>> layer.weight.requires_grad
        False
    """
    _check_options(statistics, affine)
    changes = Changes()
    for name, layer in _layers(model).items():
        what = []
        if statistics and frozen.is_frozen(layer):
            frozen.release_statistics(layer)
            what.append("statistics")
        if affine and frozen.held_parameters(layer):
            frozen.release_parameters(layer)
            what.append("affine")
        action = f"unfreeze {' and '.join(what)}" if what else LEAVE
        reason = "as before freeze" if what else "freeze has not frozen it"
        changes.append(Change(name, action, reason))
    return changes


def _layers(model: nn.Module) -> dict[str, _BatchNorm]:
    return {name: m for name, m in model.named_modules() if isinstance(m, _BatchNorm)}


def _keeps_statistics(layer: _BatchNorm) -> bool:
    return layer.running_mean is not None and layer.running_var is not None


def _learning(layer: _BatchNorm) -> tuple[str, ...]:
    """Names of the parameters that make weight and bias and have gradients."""
    own = ("weight", "bias", "parametrizations.weight.", "parametrizations.bias.")
    return tuple(
        name
        for name, parameter in layer.named_parameters()
        if parameter.requires_grad and (name in own[:2] or name.startswith(own[2:]))
    )


def _frozen(name: str, layer: _BatchNorm, what: list[str], statistics: bool) -> Change:
    reason = "normalizes by its running statistics, also in training"
    if statistics and not _keeps_statistics(layer):
        reason = "it keeps no running statistics, and so normalizes by those of every batch"
    elif what == ["affine"]:
        reason = "weight and bias get no gradients"
    elif not what:
        reason = "there is nothing that is not frozen already"
    return Change(name, f"freeze {' and '.join(what)}" if what else LEAVE, reason)


def _scripted(model: nn.Module) -> list[Change]:
    """Layers that were compiled to a script cannot be reached, and must not be passed over."""
    reason = "it is compiled to a script; freeze before torch.jit.script"
    return [
        Change(name, LEAVE, reason)
        for name, module in model.named_modules()
        if isinstance(module, torch.jit.ScriptModule) and "BatchNorm" in _original_name(module)
    ]


def _original_name(module: Any) -> str:
    return str(getattr(module, "original_name", ""))


def _refuse_lazy(layers: dict[str, _BatchNorm]) -> None:
    lazy = [name or "(the model itself)" for name, layer in layers.items() if is_lazy(layer)]
    if lazy:
        raise SurgeryError(
            f"{', '.join(lazy)}: lazy, so there are no statistics to keep yet. Run one batch "
            f"through the model first, then freeze."
        )


def _check_options(statistics: bool, affine: bool) -> None:
    if not (statistics or affine):
        raise OptionError(
            "expected statistics or affine to be True, found neither: there is nothing to do"
        )
