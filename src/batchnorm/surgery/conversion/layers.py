"""A layer that becomes one of another class: the same object, so all that hangs on it stays.

Names, hooks, parametrizations, sharing, modes, devices, dtypes, and who trains are not copied, for
nothing is: the class of the layer changes, and the attributes that only one of the classes has.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import parametrize

from ...nn import (
    BatchNorm1d,
    BatchNorm2d,
    BatchNorm3d,
    LazyBatchNorm1d,
    LazyBatchNorm2d,
    LazyBatchNorm3d,
)
from ...nn.batch_norm import BatchNorm
from ...nn.frozen import hold_statistics, is_frozen, release_statistics

OURS_BY_TORCH: dict[type[nn.Module], type[BatchNorm]] = {
    nn.BatchNorm1d: BatchNorm1d,
    nn.BatchNorm2d: BatchNorm2d,
    nn.BatchNorm3d: BatchNorm3d,
    nn.LazyBatchNorm1d: LazyBatchNorm1d,
    nn.LazyBatchNorm2d: LazyBatchNorm2d,
    nn.LazyBatchNorm3d: LazyBatchNorm3d,
}
TORCH_BY_OURS: dict[type[nn.Module], type[nn.Module]] = {
    ours: torchs for torchs, ours in OURS_BY_TORCH.items()
}

BY_AXES: dict[int, type[nn.Module]] = {
    2: nn.BatchNorm1d,
    3: nn.BatchNorm1d,
    4: nn.BatchNorm2d,
    5: nn.BatchNorm3d,
}
"""Number of axes of the input -> torch's layer for it."""


def class_of(layer: nn.Module) -> type[nn.Module]:
    """The class of a layer; of a parametrized one, that which it had before."""
    cls = type(layer)
    return cls.__bases__[0] if parametrize.is_parametrized(layer) else cls


def become_ours(layer: nn.Module, cls: type[BatchNorm], **options: Any) -> None:
    """Turn a layer of torch, or one like it, into one of ours.

    Args:
        layer: Part of a copy that nobody else has.
        cls: What it becomes.
        **options: As of `BatchNorm.set_options`.

    Raises:
        OptionError: An option has no valid value, or does not go with the layer.
    """
    with _released(layer):
        _become(layer, cls)
        _give(layer, _fresh(cls))
        layer.set_options(**options)  # type: ignore[operator]


def become_torchs(layer: nn.Module, cls: type[nn.Module]) -> None:
    """Turn a layer of ours, or a `SyncBatchNorm`, into one of torch.

    Args:
        layer: Part of a copy that nobody else has.
        cls: What it becomes.
    """
    sync: Any = getattr(layer, "sync", False)
    with _released(layer):
        if isinstance(layer, BatchNorm):
            _narrow(layer)
            old = class_of(layer)
            _take(layer, _fresh(old), _fresh(TORCH_BY_OURS.get(old, nn.BatchNorm1d)))
        layer.__dict__.pop("process_group", None)
        _become(layer, cls)
        if issubclass(cls, nn.SyncBatchNorm):
            layer.process_group = None if isinstance(sync, bool) else sync  # type: ignore[assignment]


def group_norm_of(layer: _BatchNorm, num_groups: int) -> nn.GroupNorm:
    """Build the group normalization that takes the place of a layer, with its weight and bias.

    Args:
        layer: Part of a copy that nobody else has.
        num_groups: Divides the number of channels.
    """
    new = nn.GroupNorm(num_groups, layer.num_features, layer.eps, affine=False)
    new.affine = layer.affine
    new.weight, new.bias = layer.weight, layer.bias
    for name, value in vars(layer).items():
        if name.endswith("_hooks") or "_hooks_" in name:
            new.__dict__[name] = value
    return new.train(layer.training)


def default_groups(channels: int) -> int:
    """The most groups, up to 32, that divide the channels and leave two or more in each.

    Example:
        >>> [default_groups(channels) for channels in (64, 48, 16, 7, 1)]
        [32, 24, 8, 1, 1]
    """
    most = min(32, channels // 2)
    return next((n for n in range(most, 0, -1) if channels % n == 0), 1)


def _become(layer: nn.Module, cls: type[nn.Module]) -> None:
    tensors = list(layer.parametrizations) if parametrize.is_parametrized(layer) else []  # type: ignore[arg-type]
    layer.__class__ = cls
    if tensors:  # they are properties of a class of the layer's own
        parametrize._inject_new_class(layer)
        for name in tensors:
            parametrize._inject_property(layer, name)


def _fresh(cls: type[nn.Module]) -> nn.Module:
    options = {"affine": False, "track_running_stats": False}
    return cls(**options) if issubclass(cls, nn.modules.lazy.LazyModuleMixin) else cls(1, **options)


def _give(layer: nn.Module, fresh: nn.Module) -> None:
    """Give a layer the attributes and buffers of its new class that it does not have."""
    for name, value in vars(fresh).items():
        layer.__dict__.setdefault(name, value)
    for name, buffer in fresh._buffers.items():
        if name not in layer._buffers and name not in layer._parameters:
            persists = name not in fresh._non_persistent_buffers_set
            layer.register_buffer(name, buffer, persistent=persists)


def _narrow(layer: BatchNorm) -> None:
    """Give statistics the dtype of a weight in half precision: torch computes with no other."""
    own = dict(layer.named_parameters())
    halves = [p.dtype for p in own.values() if p.is_floating_point() and p.dtype.itemsize < 4]
    for name in ("running_mean", "running_var"):
        running = layer._buffers[name]
        if running is not None and halves:
            layer._buffers[name] = running.to(halves[0])


def _take(layer: nn.Module, old: nn.Module, new: nn.Module) -> None:
    """Take from a layer the attributes and buffers that only its old class has."""
    for name in vars(old).keys() - vars(new).keys():
        layer.__dict__.pop(name, None)
    for name in old._buffers.keys() - new._buffers.keys():
        layer._buffers.pop(name, None)
        layer._non_persistent_buffers_set.discard(name)


@contextmanager
def _released(layer: nn.Module) -> Iterator[None]:
    """Let go of frozen statistics, and hold them again as the new class does."""
    held = isinstance(layer, _BatchNorm) and is_frozen(layer)
    if held:
        release_statistics(layer)  # type: ignore[arg-type]
    yield
    if held:
        hold_statistics(layer)  # type: ignore[arg-type]
