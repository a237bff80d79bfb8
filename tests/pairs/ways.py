"""How a layer comes into being, is called, and is carried from one step to the next."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.utils.checkpoint import checkpoint, set_checkpoint_early_stop

import batchnorm as bn
from batchnorm import distributed
from batchnorm.ops import composite, dispatch, native, normalize
from batchnorm.ops import recompute as outputs

from .derivatives import Batch, Given
from .steps import CHANNELS

CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}

Call = Callable[..., Tensor]


def call_layer(layer: nn.Module, state: dict[str, Tensor], *given: Tensor | None) -> Tensor:
    """Call a layer, with another state if one is given."""
    x, residual, mask, sample_weight = given
    args = (x,) if residual is None else (x, residual)
    named = {"mask": mask, "sample_weight": sample_weight}
    named = {name: value for name, value in named.items() if value is not None}
    return functional_call(layer, state, args, named) if state else layer(*args, **named)


def one_by_one(call: Call, layers: list[nn.Module], batch: Batch) -> list[Tensor]:
    """A layer with its own state; parameters differ from its own in forward mode only."""
    outputs = []
    for layer, given in zip(layers, batch, strict=True):
        own = dict(layer.named_parameters())
        state = {k: v for k, v in _parameters(given).items() if v is not own[k]}
        outputs.append(call(layer, state, *_arguments(given)))
    return outputs


def with_functional_call(call: Call, layers: list[nn.Module], batch: Batch) -> list[Tensor]:
    """A layer with a state from elsewhere, which alone is to change."""
    (layer,), (given,) = layers, batch
    buffers = {name: buffer.clone() for name, buffer in layer.named_buffers()}
    before = copy.deepcopy(buffers)
    output = call(layer, _parameters(given) | buffers, *_arguments(given))
    for name, buffer in layer.named_buffers():
        torch.testing.assert_close(buffer, before[name], rtol=0, atol=0, equal_nan=True)
    _put(layer, buffers)
    return [output]


def as_ensemble(call: Call, layers: list[nn.Module], batch: Batch) -> list[Tensor]:
    """All layers at once, their states stacked."""
    states = [_parameters(g) | dict(m.named_buffers()) for m, g in zip(layers, batch, strict=True)]
    state = {name: torch.stack([each[name] for each in states]) for name in states[0]}
    columns = zip(*[_arguments(given) for given in batch], strict=True)
    stacked = [None if column[0] is None else torch.stack(column) for column in columns]
    outputs = call(layers[0], state, *stacked)
    assert not any(state[name].requires_grad for name, _ in layers[0].named_buffers())
    for number, layer in enumerate(layers):
        _put(layer, {name: state[name][number] for name, _ in layer.named_buffers()})
    return list(outputs.unbind())


def vectorized(call: Call) -> Call:
    def call_all(layer: nn.Module, state: dict[str, Tensor], *given: Tensor | None) -> Tensor:
        in_dims = 0, *(None if tensor is None else 0 for tensor in given)
        return vmap(lambda *each: call(layer, *each), in_dims)(state, *given)

    return call_all


def checkpointed(reentrant: bool) -> Callable[[Call], Call]:
    return lambda call: lambda *args: checkpoint(call, *args, use_reentrant=reentrant)


def to_the_end() -> Any:
    """Recompute a whole call, as if layers followed that need it to its end."""
    return set_checkpoint_early_stop(False)


def compiled(call: Call) -> Call:
    torch.compiler.reset()
    return torch.compile(call, backend="aot_eager", fullgraph=True)


def autocast() -> Any:
    return torch.autocast("cpu", torch.bfloat16)


def pickled(layer: nn.Module, make: Callable[[], nn.Module]) -> nn.Module:
    return pickle.loads(pickle.dumps(layer))


def copied(layer: nn.Module, make: Callable[[], nn.Module]) -> nn.Module:
    return copy.deepcopy(layer)


def reloaded(layer: nn.Module, make: Callable[[], nn.Module]) -> nn.Module:
    file = io.BytesIO()
    torch.save(layer.state_dict(), file)
    file.seek(0)
    fresh = make()
    fresh.load_state_dict(torch.load(file))
    return fresh


def restored(layer: nn.Module, make: Callable[[], nn.Module]) -> nn.Module:
    layer.load_state_dict(copy.deepcopy(layer.state_dict()), assign=True)
    return layer


def reset(layer: nn.Module, make: Callable[[], nn.Module]) -> nn.Module:
    layer.reset_running_stats()
    return layer


def lazy(cls: type[nn.Module], **options: Any) -> nn.Module:
    return getattr(bn, f"Lazy{cls.__name__}")(**options)


def on_meta(cls: type[nn.Module], **options: Any) -> nn.Module:
    """Built without memory, then given the tensors of another layer's state_dict."""
    layer = cls(CHANNELS, device="meta", **options)
    layer.load_state_dict(cls(CHANNELS, **options).state_dict(), assign=True)
    return layer


def eager(cls: type[nn.Module], **options: Any) -> nn.Module:
    return cls(CHANNELS, **options)


def take_no_library(monkeypatch: Any) -> None:
    monkeypatch.setattr(native, "_library", None)


def take_large_route(monkeypatch: Any) -> None:
    take_no_library(monkeypatch)
    monkeypatch.setattr(normalize, "SMALL", 0)


def take_composite_kernels(monkeypatch: Any) -> None:
    take_no_library(monkeypatch)
    monkeypatch.setattr(dispatch, "kernels", lambda x: composite)


class EmptyReplica:
    """Beside this replica there is one that has no values."""

    size, rank = 2, 0

    def gather(self, row: Tensor) -> Tensor:
        return torch.stack([row, torch.zeros_like(row)])

    def total(self, sums: Tensor) -> Tensor:
        return sums.clone()

    def refuse(self, channels: int, like: Tensor) -> None:
        pass


def take_empty_replica(monkeypatch: Any) -> None:
    monkeypatch.setattr(distributed, "replicas", lambda *_: EmptyReplica())


def recompute_all(monkeypatch: Any) -> None:
    monkeypatch.setattr(outputs, "SMALL", 0)


def recomputed(call: Call) -> Call:
    """Within `recompute`, followed by what saves the output for its backward pass."""
    one = torch.ones((), requires_grad=True)

    def call_within(*args: Any) -> Any:
        with bn.recompute():
            y = call(*args)
            return y * one.to(y.dtype)

    return call_within


def to_channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=CHANNELS_LAST[x.dim()])


def to_every_other(x: Tensor) -> Tensor:
    return x.repeat_interleave(2, 0).repeat_interleave(2, -1)[::2, ..., ::2]


def _arguments(given: Given) -> tuple[Tensor | None, ...]:
    return given.x, given.residual, given.mask, given.sample_weight


def _parameters(given: Given) -> dict[str, Tensor]:
    found = {"weight": given.weight, "bias": given.bias}
    return {name: value for name, value in found.items() if value is not None}


def _put(layer: nn.Module, buffers: dict[str, Tensor]) -> None:
    with torch.no_grad():
        for name, buffer in layer.named_buffers():
            buffer.copy_(buffers[name])
