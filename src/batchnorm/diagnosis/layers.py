"""A layer as found, before anything is run."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..nn import BatchNorm
from ..nn.batch_norm import _OURS
from .evidence import LayerEvidence

State = Mapping[str, Tensor]
"""A state dict."""


def describe(
    model: nn.Module,
    layers: Mapping[str, _BatchNorm],
    modes: Mapping[str, str],
    replicas: Sequence[State],
) -> dict[str, LayerEvidence]:
    """Note what every layer is, in the order of the model's modules."""
    aliases: dict[_BatchNorm, list[str]] = {layer: [] for layer in layers.values()}
    for name, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, _BatchNorm):
            aliases[module].append(name)
    return {
        name: _described(name, layer, modes[name], tuple(aliases[layer][1:]), replicas)
        for name, layer in layers.items()
    }


def _described(
    name: str, layer: _BatchNorm, mode: str, aliases: tuple[str, ...], replicas: Sequence[State]
) -> LayerEvidence:
    weight, bias = (_parameter(layer, key) for key in ("weight", "bias"))
    mean, var = layer.running_mean, layer.running_var
    missed = layer.num_nonfinite if isinstance(layer, BatchNorm) else None
    tracked = layer.num_batches_tracked
    return LayerEvidence(
        name=name,
        kind=type(layer).__name__,
        is_ours=isinstance(layer, BatchNorm),
        aliases=aliases,
        num_features=layer.num_features,
        eps=layer.eps,
        momentum=layer.momentum,
        track_running_stats=layer.track_running_stats,
        training=layer.training,
        mode=mode,
        sync=isinstance(layer, nn.SyncBatchNorm) or bool(getattr(layer, "sync", False)),
        options=_options(layer),
        weight=_wide(weight),
        bias=_wide(bias),
        weight_requires_grad=weight is not None and weight.requires_grad,
        bias_requires_grad=bias is not None and bias.requires_grad,
        running_mean=_wide(mean),
        running_var=_wide(var),
        running_dtype=None if mean is None else mean.dtype,
        num_batches_tracked=None if tracked is None else int(tracked),
        num_nonfinite=0 if missed is None or not missed.numel() else int(missed.max()),
        replicas=tuple(p for p in (_of_replica(name, state) for state in replicas) if p),
    )


def _options(layer: _BatchNorm) -> dict[str, str]:
    if not isinstance(layer, BatchNorm):
        return {}
    return {
        name: str(getattr(layer, name))
        for name, default in _OURS.items()
        if getattr(layer, name) != default
    }


def _parameter(layer: _BatchNorm, key: str) -> Tensor | None:
    value: Any = getattr(layer, key, None)
    return value if isinstance(value, Tensor) else None


def _wide(tensor: Tensor | None) -> Tensor | None:
    if tensor is None or tensor.is_meta:
        return None
    with torch.no_grad():
        return tensor.detach().cpu().double().clone()


def _of_replica(name: str, state: State) -> tuple[Tensor, Tensor] | None:
    for prefix in ("", "module."):  # of DistributedDataParallel
        keys = [f"{prefix}{name}.{key}".lstrip(".") for key in ("running_mean", "running_var")]
        if all(key in state for key in keys):
            mean, var = (_wide(state[key]) for key in keys)
            assert mean is not None and var is not None
            return mean, var
    return None
