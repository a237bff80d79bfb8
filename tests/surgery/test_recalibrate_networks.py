"""Networks of other shapes than a chain: every layer against one float64 pass by brute force."""

import copy

import pytest
import torch
from torch import nn

import batchnorm as bn


class Residual(nn.Module):
    """A bottleneck with a shortcut that has a normalization of its own."""

    def __init__(self, norm, inputs, outputs):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(inputs, 4, 1, bias=False), norm(4), nn.ReLU(),
            nn.Conv2d(4, outputs, 3, padding=1, bias=False), norm(outputs),
        )  # fmt: skip
        self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1), norm(outputs))

    def forward(self, x):
        return (self.body(x) + self.shortcut(x)).relu()


class Dense(nn.Module):
    """Normalization before convolution, inputs concatenated; depthwise, in groups."""

    def __init__(self, norm, channels):
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Sequential(norm(channels + 2 * k), nn.SiLU(), nn.Conv2d(channels + 2 * k, 2, 1))
            for k in range(3)
        )
        self.depthwise = nn.Conv2d(channels + 6, channels + 6, 3, groups=channels + 6)
        self.norm = norm(channels + 6)

    def forward(self, x):
        for layer in self.layers:
            x = torch.cat([x, nn.functional.dropout2d(layer(x), 0.2, self.training)], 1)
        return self.norm(self.depthwise(x))


class Unet(nn.Module):
    """Down and up again, with a skip connection."""

    def __init__(self, norm, channels):
        super().__init__()
        self.down = nn.Sequential(nn.Conv2d(channels, 6, 3, 2, 1), norm(6), nn.GELU())
        self.up = nn.Sequential(nn.ConvTranspose2d(6, 4, 2, 2), norm(4), nn.LeakyReLU(0.1))
        self.out = nn.Sequential(nn.Conv2d(4 + channels, 3, 1), norm(3))

    def forward(self, x):
        return self.out(torch.cat([self.up(self.down(x)), x], 1))


NETWORKS = {
    "residual": lambda norm: nn.Sequential(Residual(norm, 3, 5), Residual(norm, 5, 6)),
    "dense": lambda norm: Dense(norm, 3),
    "unet": lambda norm: Unet(norm, 3),
}
ORIGINS = {"ours": bn.BatchNorm2d, "torch": nn.BatchNorm2d}


def is_norm(module):
    return isinstance(module, nn.modules.batchnorm._BatchNorm)


def randomize(model):
    for module in model.modules():
        if is_norm(module):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
            with torch.no_grad():
                module.weight.uniform_(0.5, 2)
                module.bias.normal_()
    return model


def brute_force(model, batches, by_batch, dtype=torch.float64):
    """All inputs of each layer, the whole network in one dtype."""
    model = copy.deepcopy(model).eval().to(dtype)
    seen = {}
    for name, module in model.named_modules():
        if is_norm(module):
            module.momentum, module.training = 0.0, by_batch
            values = seen.setdefault(name, [])
            module.register_forward_pre_hook(
                lambda _, args, values=values: values.append(args[0].transpose(0, 1).flatten(1))
            )
    with torch.no_grad():
        for batch in batches:
            model(batch.to(dtype))
    return {name: torch.cat(values, 1) for name, values in seen.items()}


@pytest.mark.parametrize("origin", ORIGINS)
@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("passes", [1, None], ids=["at once", "layer after layer"])
def test_statistics_are_those_of_the_network_in_float64(network, origin, passes):
    torch.manual_seed(0)
    model = randomize(NETWORKS[network](ORIGINS[origin]))
    batches = [k + torch.randn(n, 3, 8, 8) for k, n in enumerate((4, 1, 9))]
    if passes == 1:
        expected = brute_force(model, batches, by_batch=True)
        bn.recalibrate(model, batches)
    else:
        bn.recalibrate(model, batches, passes=None)
        expected = brute_force(model, batches, by_batch=False)
    assert len(expected) >= 3
    for name, values in expected.items():
        layer = model.get_submodule(name)
        mean, var = values.mean(1), values.var(1)
        # Up to six layers in float32 stand before: each adds rounding errors of some ulp, 2^-24,
        # of values that may be several times as large as those it hands on.
        torch.testing.assert_close(layer.running_var.double(), var, rtol=2.0**-16, atol=0)
        error = (layer.running_mean.double() - mean).abs() / var.sqrt()
        assert (error <= 2.0**-16).all(), name


@pytest.mark.parametrize("origin", ORIGINS)
def test_after_recalibration_evaluation_standardizes_all_the_data(origin):
    """What it is for: in inference, the population comes out with mean 0 and variance 1."""
    torch.manual_seed(0)
    model = NETWORKS["residual"](ORIGINS[origin])
    batches = [k + torch.randn(6, 3, 8, 8) for k in range(4)]
    bn.recalibrate(model, batches, passes=None)
    outputs = {name: [] for name, module in model.named_modules() if is_norm(module)}
    for name, values in outputs.items():
        model.get_submodule(name).register_forward_hook(
            lambda _, args, y, values=values: values.append(y.transpose(0, 1).flatten(1))
        )
    with torch.no_grad():
        for batch in batches:
            model.eval()(batch)
    for name, values in outputs.items():
        y = torch.cat(values, 1).double()
        var = model.get_submodule(name).running_var.double()
        torch.testing.assert_close(y.mean(1), torch.zeros(len(y)).double(), rtol=0, atol=1e-5)
        torch.testing.assert_close(y.var(1), var / (var + 1e-5), rtol=1e-5, atol=0)
