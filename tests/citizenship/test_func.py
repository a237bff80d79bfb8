"""torch.func: state handed in and out, ensembles under vmap, gradients of a function."""

import copy

import pytest
import torch
from torch import nn
from torch.func import functional_call, grad, jacrev, stack_module_state, vmap

import batchnorm as bn

from .cases import (
    CALLS,
    assert_close,
    assert_identical,
    batch,
    call_arguments,
    each_mode,
    each_option,
    each_size,
    layer,
    randomize,
    state,
)

MEMBERS = 3
each_call = pytest.mark.parametrize("kind", CALLS)


@each_option
@each_call
@each_mode
@each_size
def test_functional_call_updates_what_was_passed_and_nothing_else(options, kind, training, size):
    made = layer(options=options).train(training)
    x = batch(size=size)
    arguments = call_arguments(kind, x)
    expected, before = copy.deepcopy(made), state(made)
    passed = state(made)
    y = functional_call(made, passed, (x,), arguments)
    assert torch.equal(y, expected(x, **arguments))
    assert_identical(passed, state(expected))
    assert_identical(state(made), before)


@each_option
def test_functional_call_with_other_statistics(options):
    made, other = layer(options=options), layer(options=options)
    with torch.no_grad():
        for tensor in (other.weight, other.bias, other.running_mean, other.running_var):
            tensor.mul_(0.5)
    passed = state(other)
    assert torch.equal(functional_call(made, passed, (batch(),)), other(batch()))
    assert_identical(passed, state(other))


def ensemble(options, size="small", training=True):
    """Layers that differ in every parameter and buffer, and one input for each."""
    members = [layer(options=options).train(training) for _ in range(MEMBERS)]
    with torch.no_grad():
        for k, member in enumerate(members):
            for tensor in (member.weight, member.bias, member.running_mean, member.running_var):
                tensor.mul_(1 + 0.25 * k)
            member.num_batches_tracked.add_(k)
    return members, torch.stack([batch(size=size, seed=k) for k in range(MEMBERS)])


@each_option
@each_call
@each_mode
@each_size
def test_ensemble_of_stacked_layers(options, kind, training, size):
    members, xs = ensemble(options, size, training)
    arguments = [call_arguments(kind, x, seed=k) for k, x in enumerate(xs)]
    stacked = {name: torch.stack([each[name] for each in arguments]) for name in arguments[0]}
    parameters, buffers = stack_module_state(members)
    base = copy.deepcopy(members[0]).to("meta")

    def call(parameters, buffers, x, arguments):
        return functional_call(base, (parameters, buffers), (x,), arguments)

    ys = vmap(call)(parameters, buffers, xs, stacked)
    expected = [m(x, **each) for m, x, each in zip(members, xs, arguments, strict=True)]
    torch.testing.assert_close(ys, torch.stack(expected))
    for name, tensor in buffers.items():
        torch.testing.assert_close(tensor, torch.stack([getattr(m, name) for m in members]))


@each_option
def test_gradients_of_an_ensemble(options):
    members, xs = ensemble(options)
    parameters, buffers = stack_module_state(members)
    base = copy.deepcopy(members[0]).to("meta")

    def loss(parameters, buffers, x):
        return functional_call(base, (parameters, buffers), (x,)).square().sum()

    found = vmap(grad(loss))(parameters, buffers, xs)
    for member, x in zip(members, xs, strict=True):
        member(x).square().sum().backward()
    for name, tensor in found.items():
        expected = torch.stack([getattr(member, name).grad for member in members])
        torch.testing.assert_close(tensor, expected, rtol=1e-4, atol=1e-4)
    for name, tensor in buffers.items():
        torch.testing.assert_close(tensor, torch.stack([getattr(m, name) for m in members]))


def test_ensemble_of_networks_trains_as_its_members_do():
    def network(k):
        torch.manual_seed(k)
        return nn.Sequential(
            nn.Conv2d(4, 4, 2), bn.BatchNorm2d(4, activation="relu"), nn.Conv2d(4, 4, 1)
        )

    members = [network(k) for k in range(MEMBERS)]
    base = copy.deepcopy(members[0]).to("meta")
    parameters, buffers = stack_module_state(members)

    def loss(parameters, buffers, x):
        return functional_call(base, (parameters, buffers), (x,)).square().mean()

    for step in range(3):
        x = batch(seed=step)
        grads = vmap(grad(loss), (0, 0, None))(parameters, buffers, x)
        parameters = {name: (p - 0.1 * grads[name]).detach() for name, p in parameters.items()}
        for member in members:
            member.zero_grad()
            member(x).square().mean().backward()
            with torch.no_grad():
                for p in member.parameters():
                    p -= 0.1 * p.grad
    each = [state(member) for member in members]
    expected = {name: torch.stack([one[name] for one in each]) for name in each[0]}
    assert_close(parameters | buffers, expected, rtol=1e-4, atol=1e-5)


@each_option
@each_size
def test_shared_statistics_in_training_are_refused(options, size):
    """Which of the batches should move them? torch refuses as well."""
    members, xs = ensemble(options, size)
    before = state(members[0])
    with pytest.raises(RuntimeError):
        vmap(members[0])(xs)
    assert_identical(state(members[0]), before)


@each_option
@each_size
def test_shared_statistics_in_evaluation(options, size):
    members, xs = ensemble(options, size, training=False)
    expected = torch.stack([members[0](x) for x in xs])
    torch.testing.assert_close(vmap(members[0])(xs), expected)


@each_option
@each_size
def test_shared_statistics_without_update(options, size):
    members, xs = ensemble(options, size)
    before = state(members[0])
    with bn.no_update(members[0]):
        expected = torch.stack([members[0](x) for x in xs])
        torch.testing.assert_close(vmap(members[0])(xs), expected)
    assert_identical(state(members[0]), before)


@each_size
def test_layer_without_statistics_under_vmap(size):
    made = bn.BatchNorm2d(4, track_running_stats=False)
    xs = torch.stack([batch(size=size, seed=k) for k in range(MEMBERS)])
    torch.testing.assert_close(vmap(made)(xs), torch.stack([made(x) for x in xs]))


@each_option
@each_call
@each_mode
@each_size
def test_gradient_of_a_function_is_the_gradient_of_the_layer(options, kind, training, size):
    made = layer(options=options).train(training)
    x = batch(size=size)
    arguments = call_arguments(kind, x)
    buffers = dict(made.named_buffers())
    parameters = {name: p.detach() for name, p in made.named_parameters()}

    def loss(parameters, x):
        tensors = parameters | {name: buffer.clone() for name, buffer in buffers.items()}
        return functional_call(made, tensors, (x,), arguments).square().sum()

    before = state(made)
    found, found_x = grad(loss, argnums=(0, 1))(parameters, x)
    assert_identical(state(made), before)
    leaf = x.clone().requires_grad_()
    made(leaf, **arguments).square().sum().backward()
    torch.testing.assert_close(found_x, leaf.grad, rtol=1e-4, atol=1e-4)
    for name, p in made.named_parameters():
        torch.testing.assert_close(found[name], p.grad, rtol=1e-4, atol=1e-3)


@each_option
@each_size
def test_jacobian_backwards(options, size):
    made = layer(options=options).eval().double()
    x = batch(size=size, dtype=torch.float64)
    bias = made.bias.detach()
    found = jacrev(lambda b: functional_call(made, {"bias": b}, (x,)).sum((0, 2, 3)))(bias)
    rows = []
    for channel in range(4):
        total = made(x).sum((0, 2, 3))[channel]
        rows.append(torch.autograd.grad(total, made.bias)[0])
    torch.testing.assert_close(found, torch.stack(rows))


@each_option
def test_gradients_per_sample_in_evaluation(options):
    made = layer(options=options).eval()
    x = batch()
    parameters = {name: p.detach() for name, p in made.named_parameters()}

    def loss(parameters, x):
        return functional_call(made, parameters, (x.unsqueeze(0),)).square().sum()

    found = vmap(grad(loss), (None, 0))(parameters, x)
    for k in range(x.shape[0]):
        made.zero_grad()
        made(x[k : k + 1]).square().sum().backward()
        for name, p in made.named_parameters():
            torch.testing.assert_close(found[name][k], p.grad, rtol=1e-4, atol=1e-4)


def test_all_batch_norm_layers_of_torch_func_are_replaced():
    """It takes what is an instance of torch's layer and sets its buffers to None."""
    ours, its = bn.BatchNorm2d(4), nn.BatchNorm2d(4)
    randomize(ours, its)
    models = [nn.Sequential(made) for made in (ours, its)]
    for model in models:
        torch.func.replace_all_batch_norm_modules_(model)
    outputs = [vmap(model)(torch.stack([batch(), 2 * batch()])) for model in models]
    torch.testing.assert_close(*outputs)
    assert ours.running_mean is ours.running_var is ours.num_batches_tracked is None
    torch.testing.assert_close(ours.eval()(batch()), its.eval()(batch()))
