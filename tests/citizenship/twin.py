"""What a layer computes, in plain operations that autograd can take apart any number of times."""

import torch

from .cases import ACTIVATIONS, RENORM_AT_ONCE


def twin(made, x, weight, bias, *, residual=None, mask=None, sample_weight=None):
    """Output of a layer for its input and parameters, in the dtype of the input."""
    if made.training:
        size = made.virtual_batch_size
        chunks = [x.shape[0]] if size is None else even(x.shape[0], size)
        w = torch.ones_like(x[:, :1])
        if mask is not None:
            w = w * mask.unsqueeze(1)
        if sample_weight is not None:
            w = w * sample_weight.unsqueeze(1)
        pieces = [
            standardize(made, *pair) for pair in zip(x.split(chunks), w.split(chunks), strict=True)
        ]
        x_hat = torch.cat(pieces)
    else:
        x_hat = (x - column(made.running_mean, x)) / std(made.running_var, made.eps, x)
    z = x_hat * column(weight, x) + column(bias, x)
    z = z if residual is None else z + residual
    y = z if made.activation is None else ACTIVATIONS[made.activation]()(z)
    return y if mask is None else torch.where(mask.unsqueeze(1), y, 0)


def standardize(made, x, w):
    dims = [d for d in range(x.dim()) if d != 1]
    share = w / w.sum(dims, keepdim=True)
    mean = (share * x).sum(dims, keepdim=True)
    var = (share * (x - mean).square()).sum(dims, keepdim=True)
    invstd = (var + made.eps).rsqrt()
    x_hat = (x - mean) * invstd
    if made.renorm is None:
        return x_hat
    running_std = std(made.running_var, made.eps, x)
    r_max, d_max = RENORM_AT_ONCE["r_max"], RENORM_AT_ONCE["d_max"]
    r = (1 / invstd / running_std).clamp(1 / r_max, r_max)
    d = ((mean - column(made.running_mean, x)) / running_std).clamp(-d_max, d_max)
    return x_hat * r.detach() + d.detach()


def even(samples, size):
    count = -(-samples // size)
    return [samples // count + (k < samples % count) for k in range(count)]


def column(vector, x):
    return vector.view(-1, *(1,) * (x.dim() - 2))


def std(var, eps, x):
    return column((var + eps).sqrt(), x)
