"""Steps of a layer by all replicas, and the same by one process that has the whole batch."""

import copy
import pickle
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import batchnorm as bn

from .counting import Counted, Counting, counting, uncounted
from .shards import sizes

CHANNELS, STEPS = 3, 3
SAMPLES = (9, 7, 11)
"""Of each step."""

RENORM = bn.Renorm(r_max=1.5, d_max=0.3, warmup_steps=0, ramp_steps=2)


@dataclass(frozen=True)
class Training:
    """How a layer is trained, in float64."""

    name: str
    options: dict[str, Any] = field(default_factory=dict)
    way: str = "plain"
    split: str = "unequal"
    nan: bool = False
    """In the second step, in one channel of the last replica that has values."""
    given: tuple[str, ...] = ()
    pooled: bool = False
    second: bool = False
    forward: int = 1
    """Collectives of a step's forward pass."""
    backward: int = 1

    def __str__(self) -> str:
        return self.name


def batch(case: Training, step: int) -> dict[str, Tensor]:
    """The whole batch of a step, with all that may be given."""
    generator = torch.Generator().manual_seed(step)
    shape = (SAMPLES[step], CHANNELS, 2, 2)

    def randn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    found = {"x": 2 * randn(*shape) + step, "grad": randn(*shape), "direction": randn(*shape)}
    if case.nan and step == 1:
        found["x"][-3, 1, 0, 0] = torch.nan
    if "residual" in case.given:
        found["residual"] = randn(*shape)
    if "mask" in case.given:
        found["mask"] = randn(shape[0], *shape[2:]) > -0.5
    if "sample_weight" in case.given:
        found["sample_weight"] = randn(shape[0]).abs()
    return found


def train_replica(rank: int, world: int, case: Training) -> list[dict[str, Any]]:
    """What a replica does; gives what each step has computed."""
    return _train(case, lambda step: sizes(SAMPLES[step], world, case.split), rank, sync=True)


def train_alone(case: Training) -> list[dict[str, Any]]:
    """The same by one process."""
    return _train(case, lambda step: [SAMPLES[step]], 0, sync=False)


def _train(
    case: Training, parts: Callable[[int], list[int]], rank: int, sync: bool
) -> list[dict[str, Any]]:
    torch.manual_seed(0)
    layer = bn.BatchNorm2d(
        CHANNELS, eps=1e-3, dtype=torch.float64, **{"sync": sync, **case.options}
    )
    with torch.no_grad():
        layer.weight.uniform_(0.5, 2)
        layer.bias.uniform_(-1, 1)
    call = WAYS[case.way](layer) if sync else layer
    found = []
    with bn.accumulate(layer) if case.pooled else nullcontext():
        for step in range(STEPS):
            piece = {k: t.split(parts(step))[rank] for k, t in batch(case, step).items()}
            # Counting takes longer than all the rest.
            last = counting if step == STEPS - 1 else uncounted
            found.append(_step(case, layer, call, piece, last))
            if case.way in BETWEEN and sync:
                layer = call = BETWEEN[case.way](layer)
    if case.pooled:
        found[-1] |= _state(layer)
    return found


def _step(
    case: Training, layer: nn.Module, call: Any, piece: dict[str, Tensor], count: Counting
) -> dict[str, Any]:
    x, grad, direction = (piece.pop(name) for name in ("x", "grad", "direction"))
    x = x.clone().requires_grad_()
    layer.zero_grad()
    leaves = [x, layer.weight, layer.bias]
    with count() as forward:
        y = call(x, **piece)
    found = {"output": y.detach()}
    with count() as backward:
        if not case.second:
            y.backward(grad)
            grads = [leaf.grad.clone() for leaf in leaves]
        else:
            grads = torch.autograd.grad(y, leaves, grad, create_graph=True)
            # Linear in what replicas add up.
            total = (grads[0] * direction).sum() + (grads[1] * torch.arange(1, 4)).sum()
            curved = torch.autograd.grad(total, leaves, materialize_grads=True)
            names = ("second_x", "second_weight", "second_bias")
            found |= dict(zip(names, curved, strict=True))
    names = ("grad_x", "grad_weight", "grad_bias")
    found |= {name: g.detach() for name, g in zip(names, grads, strict=True)}
    return {**found, **_state(layer), "forward": Counted(*forward), "backward": Counted(*backward)}


def _state(layer: nn.Module) -> dict[str, Tensor]:
    return {name: buffer.clone() for name, buffer in layer.named_buffers()}


def _recomputed(layer: nn.Module) -> Any:
    def call(x: Tensor, **given: Tensor) -> Tensor:
        with bn.recompute():
            return layer(x, **given) * torch.ones((), dtype=x.dtype, requires_grad=True)

    return call


def _compiled(layer: nn.Module) -> Any:
    torch.compiler.reset()
    return torch.compile(layer, backend="aot_eager", fullgraph=True)


WAYS: dict[str, Callable[[nn.Module], Any]] = {
    "plain": lambda layer: layer,
    "checkpoint": lambda layer: lambda x, **g: checkpoint(layer, x, use_reentrant=False, **g),
    "reentrant": lambda layer: lambda x: checkpoint(layer, x, use_reentrant=True),
    "recompute": _recomputed,
    "compile": _compiled,
    "copy": lambda layer: layer,
    "pickle": lambda layer: layer,
}
BETWEEN: dict[str, Callable[[nn.Module], nn.Module]] = {
    "copy": copy.deepcopy,
    "pickle": lambda layer: pickle.loads(pickle.dumps(layer)),
}
