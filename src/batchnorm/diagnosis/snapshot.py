"""What one batch says about a layer, for a monitor: a few tensors of one number, on its device."""

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from .. import shapes
from ..ops import normalize


def snapshot(layer: _BatchNorm, x: Tensor) -> dict[str, Tensor]:
    """Measure a layer on the input of one call; nothing waits for the device.

    Args:
        layer: The layer; what is not there, such as its running statistics, is left out.
        x: What it is given, (N, C, *S).

    Returns:
        Tensors () in float32 by name; see `Monitor` for what they are.
    """
    x = x.detach()
    mean, var = (t.float() for t in normalize.stats(x))
    low, high = (t.float() for t in _range(x))
    values = {
        "effective_batch": _effective(x, var),
        "eps_share": (layer.eps / (var + layer.eps)).median(),
        "dead": _dead(layer, mean, var, low, high),
        "input_rms": (mean.square() + var).mean().sqrt(),
        "input_max": torch.maximum(-low, high).max(),
    }
    return values | _distances(layer, mean, var) | _profile(layer)


def _range(x: Tensor) -> tuple[Tensor, Tensor]:
    dims = shapes.reduce_dims(x.dim())
    return x.amin(dims), x.amax(dims)


def _effective(x: Tensor, var: Tensor) -> Tensor:
    """Independent values whose mean would vary as much as that of the batch.

    Samples are independent; the values of one sample are not.
    """
    count = shapes.count_per_channel(x.shape)
    if x.dim() == 2 or len(x) < 2:
        return var.new_full((), len(x) if x.dim() == 2 else count)
    between = x.flatten(2).mean(2, dtype=torch.float32).var(0)
    return (len(x) * var / between).clamp(max=count).nan_to_num(count).median()


def _dead(layer: _BatchNorm, mean: Tensor, var: Tensor, low: Tensor, high: Tensor) -> Tensor:
    invstd = (var + layer.eps).rsqrt()
    ends = torch.stack([(low - mean) * invstd, (high - mean) * invstd])
    if layer.weight is not None:
        ends = ends * layer.weight.detach().float()
    if layer.bias is not None:
        ends = ends + layer.bias.detach().float()
    return (ends.amax(0) <= 0).float().mean()


def _distances(layer: _BatchNorm, mean: Tensor, var: Tensor) -> dict[str, Tensor]:
    if layer.running_mean is None or layer.running_var is None:
        return {}
    shift = (layer.running_mean.float() - mean) * (var + layer.eps).rsqrt()
    ratio = ((layer.running_var.float() + layer.eps) / (var + layer.eps)).log() / 2
    return {"mean_error": _rms(shift), "log_std_error": _rms(ratio)}


def _profile(layer: _BatchNorm) -> dict[str, Tensor]:
    affine = {"weight_rms": layer.weight, "bias_rms": layer.bias}
    return {key: _rms(t.detach().float()) for key, t in affine.items() if t is not None}


def _rms(t: Tensor) -> Tensor:
    return t.square().mean().sqrt()
