"""A network for the tests of `recalibrate`, and what its layers are given, by brute force."""

import copy

import pytest
import torch
from torch import nn

import batchnorm as bn

SIZES = (7, 16, 1, 30, 2)
each_pass = pytest.mark.parametrize("passes", [1, 2, None])
each_origin = pytest.mark.parametrize("norm", ["ours", "torch"])
NORMS = {
    "ours": (bn.BatchNorm1d, bn.BatchNorm2d),
    "torch": (nn.BatchNorm1d, nn.BatchNorm2d),
}


def is_norm(module):
    return isinstance(module, nn.modules.batchnorm._BatchNorm)


class Net(nn.Module):
    """Images, two branches, a layer that is called twice, dropout before a normalization."""

    def __init__(self, norm="ours"):
        super().__init__()
        flat, image = NORMS[norm]
        self.first = nn.Conv2d(2, 4, 3, bias=False)
        self.norm = image(4)
        self.branch = nn.Sequential(nn.Conv2d(4, 4, 1), image(4), nn.ReLU(), nn.Dropout(0.5))
        self.shared = image(4)
        self.head = nn.Sequential(nn.Dropout(0.3), nn.Linear(4, 3), flat(3))

    def forward(self, x):
        x = self.norm(self.first(x)).relu()
        x = x + self.shared(self.branch(x))
        return self.head(self.shared(x.relu() + 1).mean((2, 3)))


def make(norm="ours"):
    torch.manual_seed(0)
    model = Net(norm)
    for module in model.modules():
        if is_norm(module):
            module.running_mean.normal_(3)
            module.running_var.uniform_(4, 9)
            module.num_batches_tracked.fill_(2)
            with torch.no_grad():
                module.weight.uniform_(0.5, 2)
                module.bias.normal_()
    return model


def batches(sizes=SIZES, drift=1.0):
    """Batches that are not alike, of different sizes."""
    generator = torch.Generator().manual_seed(1)
    return [
        (1 + k % 3) * torch.randn(n, 2, 6, 5, generator=generator) + drift * k
        for k, n in enumerate(sizes)
    ]


def inputs_of(model, loader, training=(), forward=None):
    """Every value that each layer is given, in float64, as (C, values)."""
    model = copy.deepcopy(model).eval()
    seen = {name: [] for name, module in model.named_modules() if is_norm(module)}
    for name in seen:
        layer = model.get_submodule(name)
        layer.momentum = 0.0

        def look(layer, args, name=name):
            x = args[0].detach().double()
            layer.training = name in training and x.numel() > x.shape[1]
            seen[name].append(x.transpose(0, 1).flatten(1))

        layer.register_forward_pre_hook(look)
    with torch.no_grad():
        for batch in loader:
            (forward or (lambda model, batch: model(batch)))(model, batch)
    return {name: torch.cat(values, 1) for name, values in seen.items() if values}


def assert_population(layer, values):
    """Mean and unbiased variance of all values, up to float32.

    The mean of a batch is rounded once, by up to 2^-24 of itself, and so is the result; behind a
    few layers that compute in another order than the recorded run, allow 2^-20. The kernels
    promise a variance within 1e-6 (`far` in csrc/forward.h), the means' rounding adds up to 2^-21
    (`NEAR` in population.py), the result's 2^-24: together less than 2^-19.
    """
    mean, var = values.mean(1), values.var(1)
    error = (layer.running_mean.double() - mean).abs()
    assert (error <= 2.0**-20 * (mean.abs() + var.sqrt())).all(), error
    error = (layer.running_var.double() - var).abs()
    assert (error <= 2.0**-19 * var).all(), error / var
