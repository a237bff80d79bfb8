"""The arithmetic of folding: y = scale·x + shift per channel, put into a layer on either side.

Everything is float64; the caller rounds once, at the end.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


class Affine(NamedTuple):
    """y = scale·x + shift, one of each per channel, float64."""

    scale: Tensor
    shift: Tensor

    def at(self, channels: Tensor) -> "Affine":
        """The same for a list of channels; -1 stands for y = x."""
        kept = channels >= 0
        scale = torch.where(kept, self.scale[channels], 1.0)
        return Affine(scale, torch.where(kept, self.shift[channels], 0.0))


class Weights(NamedTuple):
    """What a layer computes with, float64."""

    weight: Tensor
    bias: Tensor | None


class Absorbed(NamedTuple):
    """What it is to compute with, float64; its bias holds the shift."""

    weight: Tensor
    bias: Tensor


def affine_of(
    mean: Tensor, var: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
) -> Affine:
    """What normalization by a mean and a variance is: scale = weight / √(var + eps).

    Example:
        >>> one = torch.ones(1, dtype=torch.float64)
        >>> affine_of(one, 3 * one, 4 * one, None, 1.0)
        Affine(scale=tensor([2.], dtype=torch.float64), shift=tensor([-2.], dtype=torch.float64))
    """
    scale = (var + eps).rsqrt() if weight is None else weight / (var + eps).sqrt()
    shift = -mean * scale
    return Affine(scale, shift if bias is None else shift + bias)


def into_outputs(layer: nn.Module, own: Weights, after: Affine) -> Absorbed:
    """Weights of a layer that gives what was computed from its output before.

    Args:
        layer: Linear, convolution, or transposed convolution.
        own: Its weights.
        after: What was computed from its outputs, per output channel.
    """
    weight, scale = own.weight, after.scale
    if isinstance(layer, TRANSPOSED):
        groups = int(layer.groups)
        grouped = weight.reshape(groups, -1, *weight.shape[1:])  # (groups, in, out, *kernel)
        by_output = scale.view(groups, 1, -1, *[1] * (weight.dim() - 2))
        scaled = (grouped * by_output).flatten(0, 1)
    else:
        scaled = weight * scale.view(-1, *[1] * (weight.dim() - 1))
    return Absorbed(scaled, after.shift if own.bias is None else own.bias * scale + after.shift)


def into_inputs(layer: nn.Module, own: Weights, before: Affine) -> Absorbed:
    """Weights of a layer that takes what its input was computed from before.

    With zero padding this is exact only where the shift is 0: see `why_not_ahead`.

    Args:
        layer: Linear, convolution, or transposed convolution.
        own: Its weights.
        before: What its inputs were computed by, per input channel.
    """
    weight = own.weight
    groups = int(getattr(layer, "groups", 1))
    axis = 0 if isinstance(layer, TRANSPOSED) else 1
    # as (groups, out or in, in or out, *kernel), with the inputs on the same axis as before + 1
    grouped = weight.reshape(groups, -1, *weight.shape[1:])
    shape = [1] * grouped.dim()
    shape[0], shape[axis + 1] = groups, -1
    summed = tuple(i for i in range(1, grouped.dim()) if i != 2 - axis)
    extra = (grouped * before.shift.view(shape)).sum(summed).flatten()
    scaled = (grouped * before.scale.view(shape)).flatten(0, 1)
    return Absorbed(scaled, extra if own.bias is None else own.bias + extra)


def why_not_ahead(layer: nn.Module) -> str | None:
    """Say why a shift of a layer's inputs is no shift of its outputs; None if it is.

    That a shift happens to be 0 counts for nothing: what a network folds to has the same names and
    shapes whatever its weights are, so that one copy loads what another has saved.
    """
    if isinstance(layer, nn.Linear):
        return None
    if isinstance(layer, TRANSPOSED):
        one_tap = _all(layer.kernel_size, 1) and _all(layer.stride, 1)
        if one_tap and _all(layer.padding, 0) and _all(layer.output_padding, 0):
            return None
        return "gives each place another number of inputs, so that a shift is not the same for all"
    if layer.padding_mode == "zeros" and any(layer._reversed_padding_repeated_twice):  # type: ignore[arg-type]
        return "pads with zeros, which the normalization would not have shifted"
    return None


def into_norm(own: Affine, before: Affine) -> Affine:
    """The composition of two normalizations.

    Example:
        >>> a, b = torch.tensor([2.0]), torch.tensor([3.0])
        >>> into_norm(Affine(a, b), Affine(b, a))  # 2·(3·x + 2) + 3
        Affine(scale=tensor([6.]), shift=tensor([7.]))
    """
    return Affine(own.scale * before.scale, own.scale * before.shift + own.shift)


def _all(numbers: object, wanted: int) -> bool:
    return all(n == wanted for n in numbers) if isinstance(numbers, tuple) else numbers == wanted
