"""Forwards that `convert` writes anew, and those that no graph could stand for."""

import gc
import random

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import batchnorm as bn

from .nets import randomized, run
from .test_fold import images
from .traceable import traceable

pytestmark = pytest.mark.slow


X = images(4, 3, 6, 6)


def by_shape(self, x):
    y = self.norm(x)
    return y.relu() if x.shape[0] > 2 else y.relu() * 2


def by_class(self, x):
    return self.norm(x).relu() if isinstance(x, torch.Tensor) else x


def by_mode(self, x):
    return self.norm(x).relu() * (2 if self.training else 1)


def by_chance(self, x):
    return self.norm(x).relu() * random.choice([1, 1])


def without_gradient(self, x):
    with torch.no_grad():
        z = x * 2
    return self.norm(x).relu() + z


def counting(self, x):
    self.count = getattr(self, "count", 0) + 1
    return self.norm(x).relu()


def with_constant(self, x):
    return self.norm(x).relu() + torch.ones(6)


def with_option(self, x, scale=2):
    return self.norm(x).relu() * scale


def assigning(self, x):
    y = self.norm(x).relu() * 1
    y[:, 0] = 0
    return y


KEPT = []


def keeping(self, x):
    y = self.conv(x)
    KEPT.append(y)
    return self.norm(y * 1).relu()


def not_updating(self, x):
    with bn.no_update(self):
        y = self.norm(x)
    return y.relu()


def trying(self, x):
    try:
        return self.norm(x).relu()
    except ValueError:
        return x


def helped(self, x):
    return _helped(self, x).relu()


def _helped(self, x):
    with torch.autograd.profiler.record_function("part"):
        return self.norm(x)


def checkpointed(self, x):
    return torch.utils.checkpoint.checkpoint(lambda x: self.norm(x).relu(), x, use_reentrant=False)


def counting_globally(self, x):
    global COUNT
    COUNT = x.shape
    return self.norm(x).relu()


UNTRACEABLE = {
    "list": (keeping, "something keeps a value"),
    "context": (not_updating, "with or try statement"),
    "try": (trying, "with or try statement"),
    "context in a helper": (helped, "with or try statement"),
    "checkpoint": (checkpointed, "switches gradients"),
    "global": (counting_globally, "global statement"),
    "shape": (by_shape, "control flow"),
    "class": (by_class, "asks for the class of a value"),
    "mode": (by_mode, "something else in training"),
    "chance": (by_chance, "random numbers in Python"),
    "gradient": (without_gradient, "switches gradients"),
    "attribute": (counting, "sets attributes"),
    "constant": (with_constant, "makes a tensor"),
    "option": (with_option, "arguments that are no tensors"),
    "assignment": (assigning, "assigns to a part"),
}


@pytest.mark.parametrize("case", UNTRACEABLE)
def test_leaves_forwards_that_a_graph_could_not_stand_for(case):
    forward, reason = UNTRACEABLE[case]
    torch.manual_seed(0)
    model = traceable(forward)
    fused, changes = bn.convert(model, X)
    assert fused.norm.activation is None and type(fused) is type(model)
    assert reason in changes[0].reason
    assert changes[0].action == "convert to BatchNorm2d"


class Inner(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.conv, self.b = nn.BatchNorm2d(3), nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

    def forward(self, x):
        return self.b(self.conv(F.silu(self.a(x))))


class Nested(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.inner = traceable(lambda m, x, y: F.relu(m.norm(x) + y)), Inner()

    def forward(self, x):
        y = self.first(y=x, x=x * 2)
        return F.relu(self.inner(y) + y)


def what_others_run(phase, info):
    try:
        assert phase
    finally:
        del info


def test_what_runs_when_garbage_is_collected_is_no_part_of_a_forward():
    before = gc.get_threshold()
    gc.callbacks.append(what_others_run)
    gc.set_threshold(1)
    try:
        fused, _ = bn.convert(randomized(Nested()), X)
    finally:
        gc.set_threshold(*before)
        gc.callbacks.remove(what_others_run)
    assert fused.inner.a.activation == "silu" and fused.first.norm.activation == "relu"
    assert gc.isenabled()


def test_forwards_inside_rewritten_forwards():
    torch.manual_seed(0)
    model = randomized(Nested())
    fused, changes = bn.convert(model, X)
    assert [change.name for change in changes] == ["first.norm", "inner.a", "inner.b"]
    assert fused.inner.a.activation == "silu" and fused.inner.b.activation == "relu"
    assert fused.first.norm.activation == "relu"
    assert torch.allclose(run(fused, X)[0], run(model, X)[0], atol=1e-6)
    back, _ = bn.convert(fused, to="torch")
    assert [type(m) for m in back.modules()] == [type(m) for m in model.modules()]
    assert torch.equal(run(back, X)[0], run(model, X)[0])


class Gelu(nn.Module):
    def forward(self, x):
        return F.gelu(x)


def test_an_activation_inside_a_module_of_somebody_else():
    class Outer(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.act = nn.BatchNorm2d(3), Gelu()

        def forward(self, x):
            return self.act(self.norm(x))

    model = randomized(Outer())
    fused, _ = bn.convert(model, X)
    assert fused.norm.activation == "gelu" and type(fused.act) is Gelu
    assert torch.allclose(run(fused, X)[0], run(model, X)[0], atol=1e-6)


@pytest.mark.slow
def test_rewritten_forwards_compile():
    fused, _ = bn.convert(traceable(lambda m, x: F.relu(m.norm(m.conv(x)) + x)), X)
    compiled = torch.compile(fused.eval(), backend="eager", fullgraph=True)
    assert torch.equal(compiled(X), fused(X))
