"""A copy of a model that is being edited, with its changed weights in float64 beside it."""

import dataclasses

import torch
from torch import Tensor, nn

from ...nn.batch_norm import BatchNorm
from ..editing.leftover import leftover
from ..editing.replace import replace_module, set_tensor
from ..kinds import DIM_BY_LAYER, runs_as
from ..normed import only_normalizes
from .absorb import Affine, Weights, affine_of, into_inputs, into_norm, into_outputs

LAYERS: tuple[type[nn.Module], ...] = tuple(DIM_BY_LAYER)
"""Those that a normalization can go into."""


class Draft:
    """An edited copy. Weights that change more than once are rounded from float64 each time.

    Args:
        model: The copy.
        would_read: Layers with a forward of their own that use a bias where they have one.
    """

    def __init__(self, model: nn.Module, would_read: frozenset[str] = frozenset()) -> None:
        self.model = model
        self._would_read = would_read
        self._exact: dict[tuple[str, str], Tensor] = {}

    def read(self, name: str, attribute: str) -> Tensor | None:
        """A parameter or buffer of a module, in float64, not rounded since it was changed."""
        tensor: Tensor | None = getattr(self.model.get_submodule(name), attribute)
        if tensor is None:
            return None
        return self._exact.get((name, attribute), tensor.detach().to("cpu", torch.float64))

    def write(self, name: str, attribute: str, value: Tensor, requires_grad: bool) -> None:
        """Set a parameter or buffer of a module, in the dtype of its weights and their place."""
        module = self.model.get_submodule(name)
        like = _like(module, attribute)
        self._exact[name, attribute] = value
        rounded = value.to(like.device, like.dtype)
        set_tensor(module, attribute, _strided(rounded, like), requires_grad)

    def takes_bias(self, name: str) -> bool:
        """Whether a layer adds its bias, or would if it had one."""
        layer = self.model.get_submodule(name)
        has_one = getattr(layer, "bias", None) is not None
        is_known = runs_as(layer, LAYERS) or only_normalizes(layer)
        return has_one or is_known or name in self._would_read

    def affine_of(self, name: str) -> Affine:
        """What a normalization does in evaluation."""
        norm = self.model.get_submodule(name)
        mean, var = self.read(name, "running_mean"), self.read(name, "running_var")
        assert mean is not None and var is not None  # what cannot be folded has been left
        eps = float(norm.eps)  # type: ignore[arg-type]
        return affine_of(mean, var, self.read(name, "weight"), self.read(name, "bias"), eps)

    def weights_of(self, name: str) -> Weights:
        """What a linear or convolutional layer computes with."""
        weight = self.read(name, "weight")
        assert weight is not None
        return Weights(weight, self.read(name, "bias"))


@dataclasses.dataclass(frozen=True)
class Target:
    """A module that takes over what a normalization did."""

    name: str
    side: str
    """Which of its sides the normalization is on: "output", "input", or "norm" for its input, where
    it is a normalization itself."""
    channels: Tensor
    """For each of its channels on that side, that of the normalization; -1 for none."""

    def absorbed(self, draft: Draft, affine: Affine) -> dict[str, Tensor]:
        """Its new parameters and buffers, float64."""
        affine = affine.at(self.channels)
        if self.side == "norm":
            return self._composed(draft, affine)
        absorb = into_outputs if self.side == "output" else into_inputs
        layer = draft.model.get_submodule(self.name)
        weight, bias = absorb(layer, draft.weights_of(self.name), affine)
        return {"weight": weight, "bias": bias}

    def _composed(self, draft: Draft, affine: Affine) -> dict[str, Tensor]:
        scale, shift = into_norm(draft.affine_of(self.name), affine)
        var = draft.read(self.name, "running_var")
        assert var is not None
        eps = float(draft.model.get_submodule(self.name).eps)  # type: ignore[arg-type]
        weight = scale * (var + eps).sqrt()
        # Any mean would do; that of 0 leaves the least to round.
        return {"weight": weight, "bias": shift, "running_mean": torch.zeros_like(shift)}


@dataclasses.dataclass(frozen=True)
class Fold:
    """One normalization, those that take it over, and what stays in its place."""

    norm: str
    targets: tuple[Target, ...]
    has_residual: bool

    def new_tensors(self, draft: Draft) -> dict[str, dict[str, Tensor]]:
        """Name of each target -> its new parameters and buffers, float64."""
        affine = draft.affine_of(self.norm)
        return {target.name: target.absorbed(draft, affine) for target in self.targets}

    def apply(self, draft: Draft) -> None:
        """Edit a draft."""
        norm = draft.model.get_submodule(self.norm)
        for name, tensors in self.new_tensors(draft).items():
            for attribute, value in tensors.items():
                trains = _trains(draft.model.get_submodule(name), attribute, norm)
                draft.write(name, attribute, value, trains)
        activation = activation_of(norm)
        replace_module(draft.model, self.norm, leftover(activation, self.has_residual))


def fits(draft: Draft, tensors: dict[str, dict[str, Tensor]]) -> str | None:
    """Say which new weights are not finite in the dtype of their module; None if all are."""
    for name, new in tensors.items():
        module = draft.model.get_submodule(name)
        for attribute, value in new.items():
            dtype = _like(module, attribute).dtype
            if not bool(value.to(dtype).isfinite().all()):
                return f"the {attribute} of {type(module).__name__} '{name}' would not be finite"
    return None


def activation_of(norm: nn.Module) -> str | None:
    """The activation that is part of a layer of ours."""
    return norm.activation if isinstance(norm, BatchNorm) else None


def _like(module: nn.Module, attribute: str) -> Tensor:
    own = getattr(module, attribute)
    if own is None:
        own = module.weight if module.weight is not None else module.running_mean
    assert isinstance(own, Tensor)
    return own


def _strided(value: Tensor, like: Tensor) -> Tensor:
    if value.shape != like.shape:
        return value.contiguous()
    return torch.empty_like(like).copy_(value)  # channels_last stays


def _trains(module: nn.Module, attribute: str, norm: nn.Module) -> bool:
    """A bias that was not there is trained where that of the normalization was."""
    own = getattr(module, attribute)
    if own is None:
        for heir in (getattr(norm, attribute, None), module.weight):
            if isinstance(heir, Tensor):
                return heir.requires_grad
        return False
    return bool(own.requires_grad)
