"""What is computed once more, how often, and what is freed."""

import gc
import weakref

import pytest
import torch
from recomputed_toy import (
    Frozen,
    Layers,
    Toy,
    assert_same,
    blocks,
    compute,
    gradients,
    storages,
    values,
)

from batchnorm.nn.saving import recompute as context
from batchnorm.ops import recompute

WEIGHT = torch.tensor([1.5, -2.0, 3.0]).requires_grad_()


@pytest.fixture(autouse=True)
def all_sizes(monkeypatch):
    monkeypatch.setattr(recompute, "SMALL", 0)


@pytest.fixture
def layer():
    return Layers()


def test_output_is_freed_and_computed_once_more(layer):
    x = values()
    with context():
        y = layer(x)
        z = (y * WEIGHT).sum()
    (freed,) = storages(y)
    del y
    assert freed() is None
    assert layer.made == []
    z.backward()
    assert layer.made == ["y"]
    assert torch.equal(x.grad, gradients(lambda x: layer(x) * WEIGHT, x)[0])


def test_without_the_context_outputs_are_saved(layer):
    y = layer(values())
    z = (y * WEIGHT).sum()
    (kept,) = storages(y)
    del y
    assert kept() is not None
    z.backward()
    assert layer.made == []


VIEWS = {
    "flatten": lambda y: y.flatten(),
    "transposed": lambda y: y.t(),
    "slice": lambda y: y[1:, ::2],
    "view of a view": lambda y: y.t()[1:].unsqueeze(0),
    "expand": lambda y: y.unsqueeze(0).expand(5, 4, 3),
    "permuted": lambda y: y.permute(1, 0),
}


@pytest.mark.parametrize("view", VIEWS)
def test_views_are_views_of_what_is_computed(view, layer):
    assert_same(lambda x: VIEWS[view](layer(x)).square(), values())
    assert layer.made == ["y"]


def test_views_keep_the_output_of_no_name(layer):
    with context():
        v = layer(values()).flatten()
        z = v.square().sum()
    (freed,) = storages(v)
    del v
    assert freed() is None
    z.backward()
    assert layer.made == ["y"]


@pytest.mark.parametrize("count", [1, 2, 5])
def test_each_output_of_a_chain_is_computed_once(count, layer):
    assert_same(lambda x, w: blocks(layer, count, x, w) * w, values(), values(1))
    assert layer.made == list(range(count))


def test_a_long_chain_is_cut(layer, monkeypatch):
    monkeypatch.setattr(recompute, "LONGEST", 3)
    assert_same(lambda x, w: blocks(layer, 10, x, w) * w, values(), values(1))
    assert sorted(layer.made) == [0, 1, 2, 4, 5, 6, 8, 9]
    monkeypatch.undo()


class Look(torch.autograd.Function):
    """Calls a function in the backward pass."""

    @staticmethod
    def forward(ctx, x, look):
        ctx.look = look
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        ctx.look()
        return grad, None


@pytest.mark.parametrize("retain", [False, True], ids=["once", "retained"])
def test_kept_parts_of_a_chain_are_freed_with_their_last_use(retain):
    refs, alive = [], []

    def compute_and_note(x, residual):
        y = compute(x, residual)
        refs.extend(storages(y))
        return y

    def look():
        alive.append(sum(ref() is not None for ref in refs))

    x, w = values(), values(1)
    with context():
        y = x
        for _ in range(4):
            inner = torch.sin(Look.apply(y * w, look))
            new = Toy.apply(inner, y)
            recompute.offer(new, (inner, y), compute_and_note)
            y = new
        z = (y * w).sum()
        del y, new, inner
    z.backward(retain_graph=retain)
    # The last is freed by its only use, and then, on the way back, one by one.
    assert alive == [3, 2, 1, 0]
    assert len(refs) == 4


def test_shared_output_is_computed_once(layer):
    def function(x, w, v):
        y = layer(x)
        return y * w + (y * v).sin() + y.square()

    assert_same(function, values(), values(1), values(2))
    assert layer.made == ["y"]


def test_sources_that_double_are_computed_once_each(layer):
    """Nothing but the last is saved; one by one the first would be 128 times."""
    frozen = Layers(Frozen)

    def function(x, w):
        for number in range(8):
            x = frozen(x, x, name=number)
        return x * w

    assert_same(function, values(), values(1))
    assert frozen.made == list(range(8))


def test_input_is_not_kept_beyond_the_context():
    with context():
        x = values() * 1
        refs = storages(x)
        y = Layers(Frozen)(x)
        del x
        assert refs[0]() is not None
    assert refs[0]() is None
    assert y.requires_grad


class Sliced(Toy):
    """Its output is part of a larger tensor."""

    @staticmethod
    def forward(ctx, x, residual):
        y = Toy.forward(ctx, x, residual)
        whole = torch.cat([y, y]).untyped_storage()
        return torch.empty(0).set_(whole, y.numel(), y.shape, y.stride())


def test_part_of_a_larger_tensor_is_saved():
    sliced = Layers(Sliced)
    assert_same(lambda x, w: sliced(x) * w, values(), values(1))
    assert sliced.made == []


@pytest.mark.parametrize("times", [2, 3])
def test_second_backward_pass(times, layer):
    x, w = values(), values(1)
    expected = gradients(lambda x, w: blocks(layer, 3, x, w) * w, x, w)
    with context():
        z = (blocks(layer, 3, x, w) * w).sum()
    for _ in range(times):
        found = torch.autograd.grad(z, (x, w), retain_graph=True)
        assert all(map(torch.equal, found, expected))
    assert layer.made == [0, 1, 2] * times


def test_second_backward_pass_of_a_freed_graph_is_refused(layer):
    with context():
        z = (layer(values()) * values(1)).sum()
    z.backward()
    with pytest.raises(RuntimeError, match="second time"):
        z.backward()


def test_pass_over_part_of_the_graph_keeps_nothing(layer):
    """The first output is computed for the second, and never asked for itself."""
    x, w = values(), values(1)
    refs = []

    def make(x, residual):
        y = compute(x, residual)
        refs.extend(storages(y))
        return y

    with context():
        first = Toy.apply(x, None)
        recompute.offer(first, (x, None), make)
        other = first * values(2)
        second = Toy.apply(other, first)
        recompute.offer(second, (other, first), make)
        z = (second * w).sum()
        del first, second
    (grad,) = torch.autograd.grad(z, w, retain_graph=True)
    assert len(refs) == 2
    assert [ref() for ref in refs] == [None, None]
    assert torch.equal(grad, torch.autograd.grad(z, w)[0])


def test_double_backward(layer):
    def function(x, w):
        (grad,) = torch.autograd.grad((layer(x).pow(3) * w).sum(), x, create_graph=True)
        return grad.square() * w

    assert_same(function, values(), values(1))
    assert layer.made


def test_double_backward_outside_of_the_context(layer):
    x, w = values(), values(1)

    def second(z):
        (grad,) = torch.autograd.grad(z, x, create_graph=True)
        return torch.autograd.grad(grad.square().sum(), (x, w))

    expected = second((layer(x).pow(3) * w).sum())
    with context():
        z = (layer(x).pow(3) * w).sum()
    assert all(map(torch.equal, second(z), expected))


def test_nothing_is_recorded_while_computing():
    recording = []

    def make(x):
        recording.append(torch.is_grad_enabled())
        return compute(x, None)

    x = values()
    with context():
        y = Toy.apply(x, None)
        recompute.offer(y, (x,), make)
        z = y.square().sum()
    torch.autograd.grad(z, x, create_graph=True)
    assert recording == [False]


def test_looking_at_what_is_saved(layer):
    """Outside of a backward pass nothing is kept."""
    with context():
        y = layer(values())
        first, second = y * values(1), y * values(2)
    (first + second).sum().backward(retain_graph=True)
    assert layer.made == ["y"]
    assert torch.equal(first.grad_fn._saved_self, y)
    assert torch.equal(second.grad_fn._saved_self, y)
    assert layer.made == ["y"] * 3


def test_small_output_is_saved(layer, monkeypatch):
    monkeypatch.setattr(recompute, "SMALL", 12)
    assert_same(lambda x: layer(x).square(), values())
    assert layer.made == []


def test_no_recipe_without_a_graph(layer):
    def function(x, w):
        with torch.no_grad():
            y = layer(x)
        return y * w + x

    assert_same(function, values(), values(1))
    assert layer.made == []


def test_wrong_recipe_is_noticed(layer):
    x = values()
    with context():
        y = Toy.apply(x, None)
        recompute.offer(y, (x,), lambda x: compute(x, None).t())
        z = y.square()
    with pytest.raises(RuntimeError, match="computed once more with"):
        z.sum().backward()


def test_nothing_is_left_behind(layer):
    """Reference cycles would keep memory until the collector comes by."""
    gc.collect()
    gc.disable()
    try:
        w = values()
        with context():
            x = w * 1
            y = layer(x, x.exp())
            z = (y * y.sigmoid()).exp()
        refs = [weakref.ref(y), *storages(x, y, z)]
        z.sum().backward(retain_graph=True)
        torch.autograd.grad(z.sum(), w, create_graph=True)
        del x, y, z
        assert [ref() for ref in refs] == [None] * 4
    finally:
        gc.enable()


def test_input_is_not_kept_for_an_output_that_nobody_keeps(layer):
    with context():
        x = values() * 1
        refs = storages(x)
        y = layer(x)
        del x
        assert refs[0]() is not None
        del y
        assert refs[0]() is None
