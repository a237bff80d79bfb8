"""Batch normalization of other libraries, known by what it computes.

A class with a forward of its own may do anything. If it is called like one of those that are known,
it is compared with our layer, on random numbers in float64: in evaluation, and in training outputs,
gradients and statistics.
"""

import copy
import dataclasses
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ...nn import BatchNorm1d, BatchNorm2d, BatchNorm3d
from ...nn.batch_norm import BatchNorm
from ...nn.frozen import hold_statistics
from . import activations
from .layers import become_ours, class_of

_SAMPLES = 8
_TOLERANCE = 1e-10
"""Float64 rounds at 1e-16; another eps or momentum moves these outputs by 1e-6 or more."""

_SHAPES = {BatchNorm2d: (5, 3), BatchNorm1d: (), BatchNorm3d: (2, 2, 2)}


@dataclasses.dataclass(frozen=True)
class Foreign:
    """What a layer of another library is, as one of ours."""

    cls: type[BatchNorm]
    activation: str | None
    is_frozen: bool
    eps: float

    def become(self, layer: nn.Module, **options: Any) -> None:
        """Turn a layer, part of a copy that nobody else has, into one of ours."""
        origin, mean = class_of(layer), layer.running_mean
        assert isinstance(mean, Tensor)
        own = {"num_features": len(mean), "eps": self.eps, "momentum": 0.1}
        own |= {"affine": getattr(layer, "weight", None) is not None, "track_running_stats": True}
        added = tuple(name for name in own if name not in vars(layer))
        for name in added:
            layer.__dict__[name] = own[name]
        for name in ("weight", "bias"):
            if not hasattr(layer, name):
                layer.register_parameter(name, None)
        become_ours(layer, self.cls, activation=self.activation, **options)
        layer._buffers.setdefault("num_batches_tracked", None)
        if self.is_frozen:
            hold_statistics(layer)  # type: ignore[arg-type]
        layer.came_from = (origin, added, self.activation)  # type: ignore[assignment]


def recognize(layer: nn.Module) -> Foreign | str | None:
    """Say what a layer of another library is.

    Returns:
        What it is; or why it is not what it is called; None for one that is not called a batch
        normalization at all.
    """
    name = class_of(layer).__name__
    mean = getattr(layer, "running_mean", None)
    if "BatchNorm" not in name or not isinstance(mean, Tensor) or isinstance(layer, BatchNorm):
        return None
    own = f"its class {name} has a forward of its own"
    if not isinstance(getattr(layer, "running_var", None), Tensor) or mean.device.type == "meta":
        return own
    is_frozen = not isinstance(layer, _BatchNorm)
    activation = _activation(layer)
    if activation == "?":
        return f"{own}, with an activation that our layers do not have"
    for cls, spatial in _SHAPES.items():
        for eps in _epsilons(layer):
            found = Foreign(cls, activation, is_frozen, eps)
            if _computes_the_same(layer, found, (_SAMPLES, len(mean), *spatial)):
                return found
    return f"{own}, and computes something else than our layers"


def _activation(layer: nn.Module) -> str | None:
    for name in ("act", "activation", "act_layer"):
        act = getattr(layer, name, None)
        if isinstance(act, nn.Module) and not isinstance(act, nn.Identity):
            return activations.of_module(act) or "?"
    return None


def _epsilons(layer: nn.Module) -> tuple[float, ...]:
    own = getattr(layer, "eps", None)
    usual = (1e-5, 1e-3, 0.0)  # it may be written down in the forward
    return (own, *usual) if isinstance(own, float) else usual


def _computes_the_same(layer: nn.Module, found: Foreign, shape: tuple[int, ...]) -> bool:
    try:
        theirs, ours = copy.deepcopy(layer).cpu().double(), copy.deepcopy(layer).cpu().double()
        for copied in (theirs, ours):
            _forget_hooks(copied)
        found.become(ours)
        ours.to(torch.float64)
        with torch.enable_grad(), torch.random.fork_rng(devices=[]):
            pairs = [
                zip(_run(theirs, shape, mode), _run(ours, shape, mode), strict=True)
                for mode in (False, True)
            ]
            return all(_close(a, b) for pair in pairs for a, b in pair)
    except Exception:  # whatever a class of somebody else does with numbers it was not made for
        return False


def _run(layer: nn.Module, shape: tuple[int, ...], training: bool) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape, dtype=torch.float64, generator=generator).mul_(2).add_(0.5)
    x.requires_grad_()
    y = layer.train(training)(x)
    weight = torch.randn(y.shape, dtype=torch.float64, generator=generator)
    wanted = [x, *(p for p in layer.parameters() if p.requires_grad)]
    grads = torch.autograd.grad((y * weight).sum(), wanted)
    return [y.detach(), *grads, *(b for b in layer.buffers() if b.is_floating_point())]


def _close(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.allclose(a, b, rtol=_TOLERANCE, atol=_TOLERANCE)


def _forget_hooks(layer: nn.Module) -> None:
    for name, hooks in vars(layer).items():
        if name in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks"):
            hooks.clear()
