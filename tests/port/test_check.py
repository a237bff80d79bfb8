"""An input and an output prove a port, and say what is wrong with one."""

import pytest
import torch
from torch import nn

import batchnorm as bn
from batchnorm import port
from batchnorm.errors import OptionError, PortError, ShapeError


def layer(**changes):
    torch.manual_seed(0)
    made = bn.BatchNorm2d(3, eps=1e-3)
    with torch.no_grad():
        made.weight.copy_(torch.tensor([1.5, -0.5, 0.25]))
        made.bias.copy_(torch.tensor([0.5, 0.1, -1.0]))
        made.running_mean.copy_(torch.tensor([0.4, 2.0, 1.0]))
        made.running_var.copy_(torch.tensor([0.01, 2.0, 0.5]))
        for key, value in changes.items():
            getattr(made, key).copy_(value)
    return made


def example():
    """Channels last, as another framework has it, with its output."""
    torch.manual_seed(1)
    x = torch.randn(8, 4, 5, 3)
    return x, layer().eval()(x.movedim(-1, 1)).detach().movedim(1, -1)


def test_what_is_right_is_accepted_and_modes_stay():
    x, y = example()
    made = layer().train()
    made.num_batches_tracked.fill_(3)
    assert port.check(made, x, y) < 1e-6
    assert port.check(made, x.movedim(-1, 1), y.movedim(-1, 1), axis=1) < 1e-6
    assert made.training
    assert int(made.num_batches_tracked) == 3
    assert port.check(made, x.numpy(), y.numpy()) < 1e-6


WRONG = {
    "with eps=0.001": lambda m: setattr(m, "eps", 1e-5),
    "with weight and bias swapped": lambda m: swap(m.weight, m.bias),
    "with mean and variance swapped": lambda m: swap(m.running_mean, m.running_var),
    "if running_var is a standard deviation": lambda m: m.running_var.sqrt_(),
    "if running_var is 1/variance": lambda m: m.running_var.reciprocal_(),
    "explain it": lambda m: m.running_mean.add_(1.0),
}


def swap(a, b):
    saved = a.clone()
    a.copy_(b)
    b.copy_(saved)


@pytest.mark.parametrize("explanation", WRONG)
def test_what_is_wrong_is_explained(explanation):
    x, y = example()
    made = layer()
    with torch.no_grad():
        WRONG[explanation](made)
    with pytest.raises(PortError, match=explanation):
        port.check(made, x, y)


def test_an_output_of_training_mode_or_with_an_activation():
    x, y = example()
    with pytest.raises(PortError, match="in training mode"):
        port.check(layer(), x, layer().train()(x.movedim(-1, 1)).detach().movedim(1, -1))
    with pytest.raises(PortError, match="an activation behind it"):
        port.check(layer(), x, y.relu())


def test_shapes_and_axes():
    x, y = example()
    with pytest.raises(ShapeError, match="3 channels at axis 1, found 4"):
        port.check(layer(), x, y, axis=1)
    with pytest.raises(OptionError, match="expected axis"):
        port.check(layer(), x, y, axis=0)
    with pytest.raises(ShapeError, match="expected an output"):
        port.check(layer(), x, y[:4])
    with pytest.raises(PortError, match="found tuple"):
        port.check(nn.LSTM(3, 3), torch.randn(2, 4, 3).movedim(1, 2), y)


def test_a_value_that_is_no_number_is_a_difference():
    x, y = example()
    y[0, 0, 0, 0] = torch.nan
    with pytest.raises(PortError, match="up to inf"):
        port.check(layer(), x, y)


def test_a_network_whose_output_has_no_positions():
    net = nn.Sequential(layer(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.5))
    x, _ = example()
    expected = net.eval()(x.movedim(-1, 1)).detach()
    net.train()
    assert port.check(net, x, expected) < 1e-6
    assert net[0].training
    with pytest.raises(PortError, match=r"more than 0\.0001\n"):
        port.check(net, x, expected + 0.1)


def test_half_precision_is_allowed_its_rounding():
    x, y = example()
    assert 1e-4 < port.check(layer(), x, y.half()) < 8e-3
    with pytest.raises(PortError, match="more than 1e-05"):
        port.check(layer(), x, y.half(), tolerance=1e-5)
