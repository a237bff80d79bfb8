"""Activation checkpointing: everything is, bit for bit, as without it."""

import copy

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint, checkpoint_sequential, set_checkpoint_early_stop

import batchnorm as bn

from .cases import (
    CALLS,
    assert_close,
    assert_identical,
    batch,
    call_arguments,
    each_option,
    layer,
    loss,
    state,
)
from .training import network, plainly, train


class Recompute(torch.autograd.Function):
    """Keep the input only, and compute everything again in the backward pass."""

    @staticmethod
    def forward(ctx, x, model):
        ctx.model = model
        ctx.save_for_backward(x)
        return model(x)

    @staticmethod
    def backward(ctx, grad_output):
        with torch.enable_grad():
            x = ctx.saved_tensors[0].detach().requires_grad_()
            torch.autograd.backward(ctx.model(x), grad_output)
        return x.grad, None


def complete(model, x):
    with set_checkpoint_early_stop(False):
        return checkpoint(model, x, use_reentrant=False)


def each_layer(model, x, **kwargs):
    for child in model:
        x = checkpoint(child, x, **kwargs)
    return x


def nested(model, x, **kwargs):
    def inner(x):
        return checkpoint(model[2:], x, **kwargs)

    return checkpoint(lambda x: inner(model[:2](x)), x, **kwargs)


WAYS = {
    "reentrant": lambda model, x: checkpoint(model, x, use_reentrant=True),
    "not reentrant": lambda model, x: checkpoint(model, x, use_reentrant=False),
    "without early stop": complete,
    "each layer, reentrant": lambda model, x: each_layer(model, x, use_reentrant=True),
    "each layer": lambda model, x: each_layer(model, x, use_reentrant=False),
    "nested, reentrant": lambda model, x: nested(model, x, use_reentrant=True),
    "nested": lambda model, x: nested(model, x, use_reentrant=False),
    "sequential": lambda model, x: checkpoint_sequential(model, 3, x, use_reentrant=False),
    "sequential, reentrant": lambda model, x: checkpoint_sequential(
        model, 3, x, use_reentrant=True
    ),
    "a function that recomputes": lambda model, x: Recompute.apply(x, model),
}
each_way = pytest.mark.parametrize("way", WAYS)
# Inside the first pass of a reentrant checkpoint nothing requires a gradient.
pytestmark = pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")


def assert_same_pass(found, expected):
    """Equal bit for bit, but for gradients: autograd adds up several in another order."""
    exact = [name for name in expected if name.startswith("output") or "running" in name]
    assert_identical(*({name: tensors[name] for name in exact} for tensors in (found, expected)))
    assert_close(found, expected)


@each_way
@each_option
def test_training_is_as_without(way, options):
    model = network(options)
    expected = train(copy.deepcopy(model), plainly)
    assert_identical(train(model, WAYS[way]), expected)


@pytest.mark.parametrize("way", [way for way in WAYS if not way.startswith("a function")])
def test_dropout_is_as_without(way):
    model = network("plain", dropout=True)
    expected = train(copy.deepcopy(model), plainly)
    assert_identical(train(model, WAYS[way]), expected)


@pytest.mark.parametrize("use_reentrant", [True, False], ids=["reentrant", "not reentrant"])
@pytest.mark.parametrize("kind", CALLS)
@each_option
def test_every_call_is_as_without(options, kind, use_reentrant):
    made = layer(options=options)
    arguments = call_arguments(kind, batch())

    def run(model, x):
        def call(x):
            return model(x, **arguments)

        return checkpoint(call, x, use_reentrant=use_reentrant)

    def call(model, x):
        return model(x, **arguments)

    expected = train(copy.deepcopy(made), call)
    assert_identical(train(made, run), expected)


@pytest.mark.parametrize("way", ["reentrant", "not reentrant", "nested"])
@each_option
def test_two_forward_passes_before_one_backward_pass(way, options):
    """They are recomputed last first, when the running statistics have moved on."""
    model = network(options)

    def two(run):
        def both(model, x):
            return run(model, x) + run(model, 2 * x) * run(model, x - 1)

        return both

    expected = train(copy.deepcopy(model), two(plainly), steps=1)
    assert_same_pass(train(model, two(WAYS[way]), steps=1), expected)


@pytest.mark.parametrize("way", ["reentrant", "not reentrant", "nested"])
def test_the_same_batch_twice_is_renormalized_twice(way):
    """Only their order tells the two forward passes apart."""
    wide = {"r_max": 10.0, "d_max": 10.0, "warmup_steps": 0, "ramp_steps": 0}
    model = nn.Sequential(*(layer(options="renorm", renorm=wide) for _ in range(4)))

    def twice(run):
        def both(model, x):
            return run(model, x) + 3 * run(model, x)

        return both

    expected = train(copy.deepcopy(model), twice(plainly), steps=1)
    assert_same_pass(train(model, twice(WAYS[way]), steps=1), expected)


@pytest.mark.parametrize("use_reentrant", [True, False], ids=["reentrant", "not reentrant"])
@each_option
def test_one_layer_twice_in_a_segment(options, use_reentrant):
    made = layer(options=options)

    def twice(made, x):
        return made(made(x) * 3 + 1)

    def run(made, x):
        return checkpoint(twice, made, x, use_reentrant=use_reentrant)

    expected = train(copy.deepcopy(made), twice, steps=1)
    assert_same_pass(train(made, run, steps=1), expected)


@each_option
def test_second_backward_pass_through_the_same_graph(options):
    made = layer(options=options)
    x = batch().requires_grad_()
    y = checkpoint(made, x, use_reentrant=False)
    after = state(made)
    grads = [torch.autograd.grad(loss(y), x, retain_graph=True)[0] for _ in range(2)]
    assert torch.equal(*grads)
    assert_identical(state(made), after)


@each_option
def test_forward_pass_after_a_backward_pass_counts_again(options):
    made, expected = layer(options=options), layer(options=options)
    for seed in range(4):
        expected(batch(seed=seed))
        y = checkpoint(made, batch(seed=seed).requires_grad_(), use_reentrant=seed % 2 == 0)
        y.sum().backward()
    assert_identical(state(made), state(expected))


def test_backward_pass_that_raises_leaves_nothing_behind():
    class Raise(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, grad_output):
            raise RuntimeError("by intent")

    made, expected = layer(), layer()
    y = checkpoint(lambda x: made(Raise.apply(x)), batch().requires_grad_(), use_reentrant=False)
    with pytest.raises(RuntimeError, match="by intent"):
        y.sum().backward()
    made(batch(seed=1))
    for seed in range(2):
        expected(batch(seed=seed))
    assert_identical(state(made), state(expected))


@pytest.mark.parametrize("use_reentrant", [True, False], ids=["reentrant", "not reentrant"])
def test_skipped_channel_is_counted_once(use_reentrant):
    made = layer()
    x = batch()
    x[0, 1] = torch.inf
    y = checkpoint(made, x.requires_grad_(), use_reentrant=use_reentrant)
    y[:, 0].sum().backward()
    assert made.num_nonfinite.tolist() == [0, 1, 0, 0]
    assert made.num_batches_tracked == 1


@pytest.mark.parametrize("use_reentrant", [True, False], ids=["reentrant", "not reentrant"])
def test_micro_batches_are_pooled_once(use_reentrant):
    made, expected = layer(), layer()
    with bn.accumulate(expected):
        for seed in range(3):
            expected(batch(seed=seed))
    with bn.accumulate(made):
        for seed in range(3):
            x = batch(seed=seed).requires_grad_()
            checkpoint(made, x, use_reentrant=use_reentrant).sum().backward()
    assert_identical(state(made), state(expected))
