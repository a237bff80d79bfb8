"""Contexts in contexts, in threads, and among other hooks."""

import threading
from contextlib import contextmanager

import pytest
import torch
from recomputed_toy import (
    Layers,
    assert_same,
    blocks,
    gradients,
    values,
)
from torch.autograd.graph import save_on_cpu, saved_tensors_hooks

from batchnorm.nn.saving import recompute as context
from batchnorm.ops import recompute


@pytest.fixture(autouse=True)
def all_sizes(monkeypatch):
    monkeypatch.setattr(recompute, "SMALL", 0)


@pytest.fixture
def layer():
    return Layers()


def test_nested_contexts_are_one(layer):
    def function(x, w):
        y = layer(x)
        with context():
            z = y * w
            y = layer(z)
        return y * w

    assert_same(function, values(), values(1))
    assert layer.made == ["y"] * 2


def test_exception_ends_the_context(layer):
    with pytest.raises(KeyError), context():
        raise KeyError
    assert not recompute.is_active()
    y = layer(values())
    y.square().sum().backward()
    assert layer.made == []


def test_other_threads_are_not_affected(layer):
    active = []
    with context():
        thread = threading.Thread(target=lambda: active.append(recompute.is_active()))
        thread.start()
        thread.join()
        active.append(recompute.is_active())
    assert active == [False, True]


def test_backward_pass_in_another_thread(layer):
    x, w = values(), values(1)
    expected = gradients(lambda x, w: blocks(layer, 3, x, w) * w, x, w)
    with context():
        z = (blocks(layer, 3, x, w) * w).sum()
    thread = threading.Thread(target=z.backward)
    thread.start()
    thread.join()
    assert torch.equal(x.grad, expected[0]) and torch.equal(w.grad, expected[1])
    x.grad = w.grad = None


def test_backward_passes_of_several_threads(layer):
    """One output is needed by all of them."""
    x, weights = values(), [values(seed) for seed in range(1, 9)]
    with context():
        y = blocks(layer, 3, x, weights[0])
        losses = [(y * w).sum() for w in weights]
    found = {}

    def work(number):
        found[number] = torch.autograd.grad(losses[number], x, retain_graph=True)[0]

    threads = [threading.Thread(target=work, args=(number,)) for number in range(len(losses))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, w in enumerate(weights):
        again = (blocks(Layers(), 3, x, weights[0]) * w).sum()
        assert torch.equal(found[number], torch.autograd.grad(again, x)[0])


HOOKS = {
    "user's": lambda: saved_tensors_hooks(lambda t: t.detach().clone(), lambda t: t),
    "save_on_cpu": save_on_cpu,
}


@pytest.mark.parametrize("hooks", HOOKS)
def test_other_hooks_inside_do_the_saving(hooks, layer):
    def function(x, w):
        y = layer(x)
        with HOOKS[hooks]():
            z = layer(y, name="inside") * w
        return z * y

    assert_same(function, values(), values(1))
    assert layer.made == ["y"]


@pytest.mark.parametrize("hooks", HOOKS)
def test_other_hooks_around_do_the_saving(hooks, layer):
    @contextmanager
    def both():
        with HOOKS[hooks](), context():
            yield

    assert_same(lambda x, w: layer(x) * w, values(), values(1), context=both)
    assert layer.made == []


def test_where_hooks_are_forbidden_the_context_does_nothing(layer):
    with torch.autograd.graph.disable_saved_tensors_hooks("no"), context():
        layer(values()).square().sum().backward()
    assert layer.made == []
