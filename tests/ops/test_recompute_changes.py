"""Outputs, and what they were made of, that somebody changes."""

import pytest
import torch
from recomputed_toy import (
    Layers,
    assert_same,
    gradients,
    values,
)
from torch.nn import functional as F

from batchnorm.nn.saving import recompute as context
from batchnorm.ops import recompute


@pytest.fixture(autouse=True)
def all_sizes(monkeypatch):
    monkeypatch.setattr(recompute, "SMALL", 0)


@pytest.fixture
def layer():
    return Layers()


ALIASES = {
    "data": lambda y: y.data,
    "detach": lambda y: y.detach(),
    "clone": lambda y: y.clone(),
    "other type": lambda y: y.detach().view(torch.int32).float(),
    "negative": lambda y: torch._neg_view(y),
}


@pytest.mark.parametrize("alias", ALIASES)
def test_what_is_not_surely_the_output_is_saved(alias, layer):
    assert_same(lambda x, w: ALIASES[alias](layer(x)) * w + x, values(), values(1))
    assert layer.made == []


def test_data_of_a_changed_output_is_not_mistaken_for_it(layer):
    """Its version is that of the output before the change, and so is its memory."""

    def function(x, w):
        y = layer(x)
        data = y.data
        y.add_(1)
        return data * w + x

    assert_same(function, values(), values(1))


def test_replaced_data_is_not_mistaken_for_the_output(layer):
    def function(x, w):
        y = layer(x)
        y.data = y.data + 1
        return y * w

    assert_same(function, values(), values(1))
    assert layer.made == []


CHANGES = {
    "relu_": lambda y: F.relu(y, inplace=True),
    "add_": lambda y: y.add_(1),
    "mul_": lambda y: y.mul_(3),
    "view": lambda y: y[0].zero_(),
    "without a graph": lambda y: y.detach().mul_(2),
}


@pytest.mark.parametrize("change", CHANGES)
def test_changed_output_is_saved(change, layer):
    def function(x, w):
        y = layer(x)
        CHANGES[change](y)
        return y * w

    assert_same(function, values(), values(1))
    assert layer.made == []


@pytest.mark.parametrize("change", CHANGES)
def test_output_changed_after_it_was_saved(change, layer):
    """Outside, that is an error; here the value it had is still to be had, and is right."""
    x, w = values(), values(1)
    expected = gradients(lambda x, w: layer(x) * w, x, w)
    with context():
        y = layer(x)
        z = y * w
        CHANGES[change](y)
    assert all(map(torch.equal, torch.autograd.grad(z.sum(), (x, w)), expected))


@pytest.mark.parametrize("which", ["input", "residual"])
def test_change_of_what_a_recipe_needs_is_refused(which, layer):
    x, residual, w = values() * 1, values(1) * 1, values(2)
    with context():
        z = layer(x, residual) * w
    {"input": x, "residual": residual}[which].add_(1)
    with pytest.raises(RuntimeError, match=r"modified by an inplace operation.*is at version 1"):
        z.sum().backward()


@pytest.mark.parametrize("which", ["input", "residual"])
def test_what_a_recipe_needs_changed_before_anything_saves_the_output(which, layer):
    x, residual, w = values() * 1, values(1) * 1, values(2)
    with context():
        y = layer(x, residual)
        {"input": x, "residual": residual}[which].add_(1)
        z = y * w
    expected = torch.autograd.grad(z.sum(), w, retain_graph=True)[0]
    assert torch.equal(expected, y)
    assert layer.made == []


def test_change_deep_in_a_chain_is_refused(layer):
    first = values() * 1
    with context():
        y = layer(layer(first), values(1))
        z = y * values(2)
    first.zero_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        z.sum().backward()


def test_what_autograd_itself_refuses_is_refused(layer):
    """Hooks switch its own check off."""
    x = values()
    y = x.sin()
    with context():
        z = y.square()
    y.add_(1)
    with pytest.raises(RuntimeError, match=r"FloatTensor \[4, 3\]\] is at version 1; expected.* 0"):
        z.sum().backward()


def test_changed_parameter_is_refused(layer):
    w = values(1)
    with context():
        z = values() * w
    with torch.no_grad():
        w.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        z.sum().backward()


class Spoil(torch.autograd.Function):
    """Changes what it saved, which only the user can know to be right."""

    @staticmethod
    def forward(ctx, y):
        ctx.save_for_backward(y)
        return y.clone()

    @staticmethod
    def backward(ctx, grad):
        (y,) = ctx.saved_tensors
        y.zero_()
        return grad


def test_value_that_a_function_has_changed_is_not_used_again(layer):
    x, w = values(), values(1)
    expected = gradients(lambda x, w: layer(x) * w, x, w)
    with context():
        y = layer(x)
        first = y * w
        second = Spoil.apply(y)
    z = first.sum() + 0 * second.sum()
    assert all(map(torch.equal, torch.autograd.grad(z, (x, w)), expected))
    assert layer.made == ["y", "y"]


def test_residual_that_does_not_count_its_changes(layer):
    with torch.inference_mode():
        residual = values(1).detach() * 1
    assert_same(lambda x, w: layer(x, residual) * w, values(), values(2))
    assert layer.made == []
