"""Recipes instead of saved outputs, with a layer whose recomputations are counted."""

import gc
import threading
import weakref
from contextlib import contextmanager

import pytest
import torch
from torch.autograd.graph import save_on_cpu, saved_tensors_hooks
from torch.nn import functional as F

from batchnorm.nn.recompute import recompute as context
from batchnorm.ops import recompute

WEIGHT = torch.tensor([1.5, -2.0, 3.0]).requires_grad_()


@pytest.fixture(autouse=True)
def all_sizes(monkeypatch):
    monkeypatch.setattr(recompute, "SMALL", 0)


class Toy(torch.autograd.Function):
    """y = relu(2x + residual), which saves x and one byte per value."""

    @staticmethod
    def forward(ctx, x, residual):
        y = compute(x, residual)
        ctx.save_for_backward(x, y > 0)
        return y

    @staticmethod
    def backward(ctx, grad):
        x, positive = ctx.saved_tensors
        assert x.shape == grad.shape
        grad = grad * positive
        return 2 * grad, grad if ctx.needs_input_grad[1] else None


def compute(x, residual):
    z = 2 * x
    return torch.relu(z if residual is None else z + residual)


class Layers:
    """Calls of the layer by name, and how often each output was computed once more."""

    def __init__(self, function=Toy):
        self.function, self.made = function, []

    def __call__(self, x, residual=None, *, name="y"):
        def make(x, residual):
            self.made.append(name)
            return compute(x, residual)

        y = self.function.apply(x, residual)
        recompute.offer(y, (x, residual), make)
        return y


@pytest.fixture
def layer():
    return Layers()


def values(seed=0, requires_grad=True):
    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(seed))
    return x.requires_grad_(requires_grad)


def gradients(function, *leaves):
    return torch.autograd.grad(function(*leaves).sum(), leaves)


def assert_same(function, *leaves, context=context):
    """Hold the gradients inside the context to be those outside, bit for bit."""
    expected = gradients(function, *leaves)
    with context():
        found = gradients(function, *leaves)
    for mine, its in zip(found, expected, strict=True):
        assert torch.equal(mine, its)


def storages(*tensors):
    return [weakref.ref(tensor.untyped_storage()) for tensor in tensors]


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


def blocks(layer, count, x, w):
    for number in range(count):
        x = layer(torch.sin(x * w), x, name=number)
    return x


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


class Frozen(Toy):
    """As a layer with constant statistics may: it does not save its input."""

    @staticmethod
    def forward(ctx, x, residual):
        y = compute(x, residual)
        ctx.save_for_backward(y > 0)
        return y

    @staticmethod
    def backward(ctx, grad):
        grad = grad * ctx.saved_tensors[0]
        return 2 * grad, grad if ctx.needs_input_grad[1] else None


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


def test_wrong_recipe_is_noticed(layer):
    x = values()
    with context():
        y = Toy.apply(x, None)
        recompute.offer(y, (x,), lambda x: compute(x, None).t())
        z = y.square()
    with pytest.raises(RuntimeError, match="computed once more with"):
        z.sum().backward()
