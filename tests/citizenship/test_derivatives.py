"""Second derivatives and forward-mode derivatives are those of the formula, small and large."""

import copy

import pytest
import torch
from torch.autograd import forward_ad, gradcheck, gradgradcheck
from torch.func import functional_call, hessian, jacfwd, jvp

import batchnorm as bn

from .cases import (
    ACTIVATIONS,
    CALLS,
    assert_identical,
    batch,
    call_arguments,
    each_mode,
    each_option,
    each_size,
    layer,
    pair,
    state,
)
from .twin import twin

each_call = pytest.mark.parametrize("kind", CALLS)
each_activation = pytest.mark.parametrize("activation", ACTIVATIONS)
# What PyTorch itself calls to derive some of its operations forwards.
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")


def double(options="plain", kind="plain", size="small", training=True, **more):
    """A layer in float64, an input, and the other arguments of a call."""
    made = layer(options=options, **more).double().train(training)
    x = batch(size=size, dtype=torch.float64)
    return made, x, call_arguments(kind, x)


def pure(made, arguments):
    """The layer as a function of input and parameters that changes nothing outside."""

    def call(x, weight, bias):
        return functional_call(
            copy.deepcopy(made), {"weight": weight, "bias": bias}, (x,), arguments
        )

    return call


def leaves(made, x):
    return [t.detach().clone().requires_grad_() for t in (x, made.weight, made.bias)]


def second_derivatives(call, inputs):
    """Gradients of a mixture of the first gradients of a function of the output."""
    y = call(*inputs)
    first = torch.autograd.grad(y.square().sum() + y.sin().sum(), inputs, create_graph=True)
    mixture = sum((g * torch.cos(torch.arange(g.numel()).view_as(g))).sum() for g in first)
    second = torch.autograd.grad(mixture, inputs)
    return [y.detach(), *(g.detach() for g in first), *second]


def assert_second_derivatives(made, x, arguments):
    mine = second_derivatives(pure(made, arguments), leaves(made, x))
    exact = second_derivatives(lambda *each: twin(made, *each, **arguments), leaves(made, x))
    for found, expected in zip(mine, exact, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-8)


@each_option
@each_call
@each_mode
def test_second_derivatives(options, kind, training):
    assert_second_derivatives(*double(options, kind, training=training))


@each_option
@each_call
@each_mode
def test_second_derivatives_of_large_tensors(options, kind, training):
    assert_second_derivatives(*double(options, kind, "large", training))


@each_activation
@each_size
@each_mode
def test_second_derivatives_of_every_activation(activation, size, training):
    assert_second_derivatives(*double(size=size, training=training, activation=activation))


@pytest.mark.parametrize("options", ["plain", "fused", "virtual"])
@each_call
@each_mode
def test_derivatives_by_finite_differences(options, kind, training):
    """Renormalization is left out: its factors count as constants, which differences do not see."""
    made = layer(options=options, channels=2).double().train(training)
    x = batch(dtype=torch.float64)[:6, :2, :2, :1]
    arguments = call_arguments(kind, x)
    inputs = leaves(made, x)
    assert gradcheck(pure(made, arguments), inputs, check_forward_ad=True, fast_mode=True)
    assert gradgradcheck(pure(made, arguments), inputs, fast_mode=True)


@each_option
@each_call
@each_mode
@each_size
def test_forward_mode(options, kind, training, size):
    made, x, arguments = double(options, kind, size, training)
    inputs = tuple(t.detach() for t in leaves(made, x))
    tangents = tuple(torch.cos(torch.arange(t.numel()).double()).view_as(t) for t in inputs)
    found = jvp(pure(made, arguments), inputs, tangents)
    expected = jvp(lambda *each: twin(made, *each, **arguments), inputs, tangents)
    for mine, exact in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, exact, rtol=1e-9, atol=1e-9)


@each_mode
@each_size
def test_dual_numbers_leave_no_tangent_in_the_statistics(training, size):
    ours, its = (made.double().train(training) for made in pair())
    x = batch(size=size, dtype=torch.float64)
    tangents = []
    with forward_ad.dual_level():
        for made in (ours, its):
            y = made(forward_ad.make_dual(x, x.cos()))
            tangents.append(forward_ad.unpack_dual(y).tangent)
            assert forward_ad.unpack_dual(made.running_mean).tangent is None
    torch.testing.assert_close(*tangents, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(ours.running_var, its.running_var)


@each_option
@each_mode
@each_size
def test_jacobian_of_the_parameters_forwards(options, training, size):
    made, x, _ = double(options, size=size, training=training)
    call = pure(made, {})
    weight, bias = made.weight.detach(), made.bias.detach()
    found = jacfwd(lambda w: call(x, w, bias).sum((0, 2, 3)))(weight)
    expected = jacfwd(lambda w: twin(made, x, w, bias).sum((0, 2, 3)))(weight)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-7)


@each_option
@each_mode
def test_hessian_of_the_input(options, training):
    made, x, _ = double(options, training=training)
    call, parameters = pure(made, {}), (made.weight.detach(), made.bias.detach())
    x = x[:6, :, 0, :1]
    made_call = hessian(lambda x: call(x.unsqueeze(-1), *parameters).pow(3).sum())(x)
    exact = hessian(lambda x: twin(made, x.unsqueeze(-1), *parameters).pow(3).sum())(x)
    torch.testing.assert_close(made_call, exact, rtol=1e-8, atol=1e-8)


@each_option
@each_mode
@each_size
def test_many_backward_passes_at_once(options, training, size):
    made, x, _ = double(options, size=size, training=training)
    x.requires_grad_()
    y = made(x)
    grads_y = torch.stack([y.detach().cos(), y.detach().sin()])
    inputs = [x, made.weight, made.bias]
    together = torch.autograd.grad(y, inputs, grads_y, retain_graph=True, is_grads_batched=True)
    each = [torch.autograd.grad(y, inputs, grad_y, retain_graph=True) for grad_y in grads_y]
    for found, expected in zip(together, zip(*each, strict=True), strict=True):
        torch.testing.assert_close(found, torch.stack(expected), rtol=1e-9, atol=1e-9)


@each_option
def test_transform_of_a_training_step_is_refused_or_updates_nothing(options):
    """Moving statistics from inside jvp would leave tangents in the layer; torch refuses it."""
    made, x, _ = double(options)
    before = state(made)
    with pytest.raises(RuntimeError, match="mutate a captured Tensor"):
        jvp(made, (x,), (x.cos(),))
    assert_identical(state(made), before)
    with bn.no_update(made):
        found = jvp(made, (x,), (x.cos(),))
    parameters = (made.weight.detach(), made.bias.detach())
    expected = jvp(lambda x: twin(made, x, *parameters), (x,), (x.cos(),))
    for mine, exact in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, exact, rtol=1e-9, atol=1e-9)
    assert_identical(state(made), before)
