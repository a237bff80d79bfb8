import pytest
import torch

from batchnorm.errors import OptionError
from batchnorm.ops import activation
from batchnorm.ops.activation import ACTIVATIONS
from cases import TORCH_ACTIVATIONS

NAMES = list(ACTIVATIONS)
POINTS = torch.tensor([-5.0, -3.0, -2.9, -1.0, -1e-3, 0.0, 1e-3, 0.7, 2.9, 3.0, 5.0])
KINKS = {"relu": [0.0], "leaky_relu": [0.0], "elu": [0.0], "hardswish": [-3.0, 3.0]}


def backward(name, grad, z):
    act = ACTIVATIONS[name]
    return act.backward(grad, act.forward(z) if act.from_output else z)


def test_every_activation_of_the_contract_is_there():
    assert {*NAMES, None} == set(TORCH_ACTIVATIONS)
    assert activation.get(None) is None


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_value_and_slope_are_those_of_torch(name, dtype):
    """At the kinks too, where a derivative is a choice."""
    z = POINTS.clone().to(dtype).requires_grad_()
    y = TORCH_ACTIVATIONS[name](z)
    grad = torch.linspace(-2, 2, len(POINTS)).to(dtype)
    (expected,) = torch.autograd.grad(y, z, grad)
    assert torch.equal(activation.get(name).forward(z), y)
    ulp = torch.finfo(dtype).eps
    torch.testing.assert_close(backward(name, grad, z.detach()), expected, rtol=8 * ulp, atol=ulp)


@pytest.mark.parametrize("name", NAMES)
def test_slope_is_differentiable_in_both_arguments(name):
    away = [float(p) for p in POINTS if float(p) not in KINKS.get(name, [])]
    z = torch.tensor(away, dtype=torch.float64).requires_grad_()
    grad = torch.linspace(-2, 2, len(z), dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda grad, z: backward(name, grad, z), (grad, z))
    assert torch.autograd.gradgradcheck(lambda grad, z: backward(name, grad, z), (grad, z))


@pytest.mark.parametrize("name", ["swish", "ReLU", "", 3, ["relu"], {"relu": 1}], ids=str)
def test_other_names_are_refused(name):
    with pytest.raises(OptionError, match=r"None or one of 'relu', .*, 'tanh'; found"):
        activation.get(name)
