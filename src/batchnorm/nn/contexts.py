"""Blocks in which running statistics are not updated, or once for several forwards."""

from collections.abc import Iterator
from contextlib import contextmanager
from weakref import WeakKeyDictionary

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parameter import is_lazy

from ..errors import SurgeryError
from .pool import Pool
from .running import Running


@contextmanager
def no_update(model: nn.Module) -> Iterator[None]:
    """Leave running statistics alone in all forwards inside the block.

    Training forwards still normalize by the batch. Nothing is counted either. Layers of torch in
    the model are left alone as well.

    Args:
        model: A model, or a layer.

    Example:
        >>> import torch
        >>> from batchnorm import BatchNorm1d
        >>> layer = BatchNorm1d(2)
        >>> with no_update(layer):
        ...     y = layer(torch.randn(8, 2))
        >>> layer.num_batches_tracked
        tensor(0)
    """
    ours, others = _layers(model)
    for layer in ours:
        layer.paused += 1
    for other in others:
        _silence(other)
    try:
        yield
    finally:
        for layer in ours:
            layer.paused -= 1
        for other in others:
            _let_speak(other)


@contextmanager
def accumulate(model: nn.Module) -> Iterator[None]:
    """Merge the moments of all forwards inside the block into one update at its end.

    For gradient accumulation: the running statistics then are those of the whole batch, not the
    noisier ones of its parts, and are moved once. Each forward is still normalized by its own
    part. An exception inside leaves all statistics as they were. A block within a block joins the
    outer one when it ends.

    Args:
        model: A model, or a layer. Layers of torch in training mode are refused.

    Raises:
        SurgeryError: A layer of torch in training mode would be updated by every forward, or a
            lazy layer has had no input yet.

    Example: 1, 3 and 5, 7 are merged to mean 4 and variance 20/3; momentum is 0.1.
        >>> import torch
        >>> from batchnorm import BatchNorm1d
        >>> layer = BatchNorm1d(1)
        >>> with accumulate(layer):
        ...     for part in torch.tensor([[[1.0], [3.0]], [[5.0], [7.0]]]):
        ...         y = layer(part)
        >>> layer.running_mean, layer.running_var, layer.num_batches_tracked
        (tensor([0.4000]), tensor([1.5667]), tensor(1))

    Source: Chan, Golub & LeVeque 1983, equation 1.5.
    """
    ours, _ = _layers(model)
    _refuse_torchs(model)
    _refuse_lazy(model)
    pools = [
        (layer, Pool.empty(layer.running_mean)) for layer in ours if layer.running_mean is not None
    ]
    for layer, pool in pools:
        layer.pools.append(pool)
    try:
        yield
    except BaseException:
        for layer, pool in pools:
            layer.discard(pool)
        raise
    for layer, pool in pools:
        layer.close(pool)


_silenced: WeakKeyDictionary[_BatchNorm, tuple[int, bool]] = WeakKeyDictionary()
"""Layers of torch inside `no_update`: number of blocks around, `track_running_stats` before."""


def _silence(layer: _BatchNorm) -> None:
    blocks, tracked = _silenced.get(layer, (0, layer.track_running_stats))
    _silenced[layer] = blocks + 1, tracked
    # In training the buffers are then not passed on; in evaluation they still are.
    layer.track_running_stats = False


def _let_speak(layer: _BatchNorm) -> None:
    blocks, tracked = _silenced.pop(layer)
    if blocks > 1:
        _silenced[layer] = blocks - 1, tracked
    else:
        layer.track_running_stats = tracked


def _layers(model: nn.Module) -> tuple[list[Running], list[_BatchNorm]]:
    """Layers of ours and layers of torch."""
    layers = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    ours = [layer for layer in layers if isinstance(layer, Running)]
    return ours, [layer for layer in layers if not isinstance(layer, Running)]


def _refuse_torchs(model: nn.Module) -> None:
    for name, layer in model.named_modules():
        if not isinstance(layer, _BatchNorm) or isinstance(layer, Running):
            continue
        if layer.training and layer.track_running_stats:
            raise SurgeryError(
                f"{_named(layer, name)} is a layer of torch in training mode, which "
                f"updates its statistics in every forward; replace it by batchnorm's class of the "
                f"same name, or call .eval() on it"
            )


def _refuse_lazy(model: nn.Module) -> None:
    for name, layer in model.named_modules():
        mean = layer.running_mean if isinstance(layer, Running) else None
        if mean is not None and is_lazy(mean):
            raise SurgeryError(
                f"{_named(layer, name)} does not know its number of channels yet; "
                f"call the model once before accumulate"
            )


def _named(layer: nn.Module, name: str) -> str:
    return f"{type(layer).__name__} at {name!r}" if name else type(layer).__name__
