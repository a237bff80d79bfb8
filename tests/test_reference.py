"""The specification against autograd, against torch in float64, and against sums done by hand.

The sums by hand are its doctests.
"""

import pytest
import torch

from batchnorm import reference
from cases import ACTIVATIONS, LAYOUTS, TORCH_ACTIVATIONS

EPS = 1e-3


def make(layout):
    generator = torch.Generator().manual_seed(0)
    x, grad = torch.randn(2, *layout.shape, generator=generator, dtype=torch.float64)
    weight, bias, mean = torch.randn(3, layout.shape[1], generator=generator, dtype=torch.float64)
    return x, grad, weight, bias, mean, mean.square() + 0.1


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("training", [True, False])
def test_reference_agrees_with_torch(layout, training):
    x, grad, weight, bias, mean, var = make(layout)
    leaves = [t.clone().requires_grad_() for t in (x, weight, bias)]
    running = mean.clone(), var.clone()
    y = torch.nn.functional.batch_norm(leaves[0], *running, *leaves[1:], training, 0.3, EPS)
    if training:
        ours, batch_mean, batch_var = reference.forward_train(x, weight, bias, EPS)
        grads = reference.backward_train(grad, x, weight, EPS)
        updated = reference.running_update((mean, var), reference.moments(x), 0.3)
        torch.testing.assert_close(updated, running)
        torch.testing.assert_close(batch_mean, x.movedim(1, 0).flatten(1).mean(1))
        torch.testing.assert_close(batch_var, x.movedim(1, 0).flatten(1).var(1, correction=0))
    else:
        ours = reference.forward(x, mean, var, weight, bias, EPS)
        grads = reference.backward_eval(grad, x, mean, var, weight, EPS)
    torch.testing.assert_close(ours, y)
    torch.testing.assert_close(grads, torch.autograd.grad(y, leaves, grad))


@pytest.mark.parametrize("affine", [True, False])
def test_backward_by_hand_is_the_gradient_of_forward(affine):
    """Against finite differences of the specification's own forward."""
    x, _, weight, *_ = (t.requires_grad_() for t in make(LAYOUTS[6]))
    weight = weight if affine else None

    class ByHand(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return reference.forward_train(x, weight, None, EPS)[0]

        @staticmethod
        def backward(ctx, grad_y):
            return reference.backward_train(grad_y, x, weight, EPS)[0]

    assert torch.autograd.gradcheck(ByHand.apply, (x,))


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activation_and_its_slope_agree_with_torch(name):
    z = torch.linspace(-6, 6, 97, dtype=torch.float64) + 1e-3
    z.requires_grad_()
    y = TORCH_ACTIVATIONS[name](z)
    (slope,) = torch.autograd.grad(y.sum(), z)
    torch.testing.assert_close(reference.activate(name, z.detach()), y.detach())
    ours = reference.activate_backward(name, torch.ones_like(z), z.detach())
    torch.testing.assert_close(ours, slope)


def test_merge_is_the_moments_of_both():
    x = torch.randn(9, 3, 2, dtype=torch.float64)
    parts = reference.moments(x[:4]), reference.moments(x[4:])
    for merged, whole in zip(reference.merge(*parts), reference.moments(x), strict=True):
        torch.testing.assert_close(torch.as_tensor(merged), torch.as_tensor(whole))
