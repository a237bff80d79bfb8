"""What `convert` lets a normalization take in, and what it leaves outside, with the reason."""

import re

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import batchnorm as bn
from batchnorm.errors import SurgeryError

from .nets import Net, OneInput, distance, randomized, reference, run
from .test_fold import images
from .traceable import traceable

pytestmark = pytest.mark.slow


X = images(4, 3, 6, 6)


def one(forward, **modules):
    modules = {"conv": nn.Conv2d(3, 3, 3, padding=1), "norm": nn.BatchNorm2d(3)} | modules
    return randomized(OneInput(forward, **modules))


def two(forward, **modules):
    return one(forward, norm2=nn.BatchNorm2d(3), **modules)


def plus_in_place(self, x):
    y = self.norm(self.conv(x))
    y += x
    return F.relu(y, inplace=True)


def plus_reflected(self, x):
    return torch.relu(x + self.norm(self.conv(x)))


def plus_late(self, x):
    y = self.norm(self.conv(x))
    z = torch.sigmoid(self.conv(x))
    return F.silu(torch.add(y, z))


def plus_only(self, x):
    return self.conv(self.norm(self.conv(x)).add_(x)) * 2


def act_then_plus(self, x):
    return F.leaky_relu(self.norm(self.conv(x))) + x


def twice_shared(self, x):
    y = F.relu(self.norm(self.conv(x)) + x)
    return F.relu(self.norm(self.conv(y)) + y)


def two_norms(self, x):
    return (self.norm(self.conv(x)) + self.norm2(x)).relu()


def identity_between(self, x):
    return F.gelu(self.nothing(self.norm(x)) + x)


def aliased(self, x):
    z = self.conv(x)
    w = z
    w *= 2  # z, too
    n = m = x.shape[0]
    m *= 2  # not n
    return self.norm(x).relu() + z * n / m


TAKEN = {
    "aliased": (aliased, {}, {"norm": ("relu", False)}),
    "plus_in_place": (plus_in_place, {}, {"norm": ("relu", True)}),
    "plus_reflected": (plus_reflected, {}, {"norm": ("relu", True)}),
    "plus_late": (plus_late, {}, {"norm": ("silu", True)}),
    "plus_only": (plus_only, {}, {"norm": (None, True)}),
    "act_then_plus": (act_then_plus, {}, {"norm": ("leaky_relu", False)}),
    "twice_shared": (twice_shared, {}, {"norm": ("relu", True)}),
    "two_norms": (
        two_norms,
        {"norm2": nn.BatchNorm2d(3)},
        {"norm": (None, False), "norm2": ("relu", True)},
    ),
    "identity_between": (identity_between, {"nothing": nn.Identity()}, {"norm": ("gelu", True)}),
    "elu": (lambda self, x: F.elu(self.norm(x)), {}, {"norm": ("elu", False)}),
    "hardswish": (lambda self, x: F.hardswish(self.norm(x)), {}, {"norm": ("hardswish", False)}),
    "tanh": (lambda self, x: self.norm(x).tanh(), {}, {"norm": ("tanh", False)}),
    "sigmoid_": (lambda self, x: self.norm(x).sigmoid_(), {}, {"norm": ("sigmoid", False)}),
    "tuple": (lambda self, x: (self.norm(x).relu(), {"x": x}), {}, {"norm": ("relu", False)}),
}


@pytest.mark.parametrize("case", TAKEN)
def test_takes_in(case):
    forward, modules, wanted = TAKEN[case]
    torch.manual_seed(0)
    model = traceable(forward, **modules)
    before = X.clone()
    fused, changes = bn.convert(model, X)
    for name, (activation, has_residual) in wanted.items():
        assert fused.get_submodule(name).activation == activation
        change = next(c for c in changes if c.name == name)
        assert ("the addition" in change.action) is has_residual, str(change)
    assert torch.equal(X, before)
    exact = reference(model, X)
    assert distance(run(fused, X), exact) < 4 * distance(run(model, X), exact) + 2**-22
    back, _ = bn.convert(fused, to="torch")
    assert type(back) is type(model)
    assert all(torch.equal(a, b) for a, b in zip(run(back, X), run(model, X), strict=True))


def returns_both(self, x):
    y = self.norm(x)
    return y.relu(), y


def reads_after(self, x):
    y = self.norm(x)
    z = self.act(y)
    return z + y.mean()


def view_is_read(self, x):
    y = self.norm(x)
    v = y[:, :1]
    y += x
    return torch.relu(y) + v


def kept(self, x):
    self.last = self.norm(x)
    return self.last.relu()


def sum_is_read(self, x):
    y = self.norm(x) + x
    return torch.relu(y) + y


def into_residual(self, x):
    z = x * 2
    z += self.norm(x)
    return torch.relu(z) + z


def broadcast(self, x):
    return self.norm(x) + x.mean((2, 3), keepdim=True)


def input_changes(self, x):
    z = self.conv(x)
    y = self.norm(z)
    z.mul_(2)
    return torch.relu(y + z)


def multiple(self, x):
    return torch.add(self.norm(x), x, alpha=2)


STILL = {"conv": nn.Conv2d(3, 3, 1).requires_grad_(False), "norm": nn.BatchNorm2d(3, affine=False)}
"""Nothing that learns, so that what a derivative would need may be overwritten."""

LEFT = {
    "returned": (returns_both, {}, "the model returns it"),
    "read after": (reads_after, {"act": nn.ReLU()}, "both read it"),
    "in place": (view_is_read, {}, "both read it"),
    "kept": (kept, {}, "something keeps it"),
    "the sum": (sum_is_read, {}, "both read it"),
    "into the residual": (into_residual, {}, "writes the sum into something else"),
    "broadcast": (broadcast, {}, "adds another shape"),
    "input changes": (input_changes, STILL, "changes its input"),
    "multiple": (multiple, {}, "adds a multiple"),
    "number": (lambda self, x: (self.norm(x) + 1).relu(), {}, "adds something that is no tensor"),
    "itself": (lambda s, x: (lambda y: y + y)(s.norm(x)), {}, "adds it to itself"),
    "slope": (lambda self, x: F.leaky_relu(self.norm(x), 0.2), {}, "comes after it"),
    "alpha": (lambda s, x: s.act(s.norm(x)), {"act": nn.ELU(0.5)}, "comes after it"),
    "approximate": (lambda s, x: s.act(s.norm(x)), {"act": nn.GELU("tanh")}, "comes after it"),
    "dropout": (
        lambda s, x: F.relu(s.drop(s.norm(x))),
        {"drop": nn.Dropout(0.5)},
        "another call|comes after it|both read it",
    ),
    "functional dropout": (
        lambda s, x: F.relu(F.dropout(s.norm(x), 0.5, s.training)),
        {},
        "both read it|comes after it",
    ),
}


@pytest.mark.parametrize("case", LEFT)
def test_leaves_outside(case):
    forward, modules, reason = LEFT[case]
    torch.manual_seed(0)
    model = traceable(forward, **modules)
    fused, changes = bn.convert(model, X)
    assert fused.norm.activation is None
    assert len(changes) == 1 and changes[0].action in (
        "convert to BatchNorm2d",
        "convert to BatchNorm2d, with the addition",
    )
    assert re.search(reason, changes[0].reason), changes[0].reason
    exact = reference(model, X)
    assert distance(run(fused, X), exact) < 4 * distance(run(model, X), exact) + 2**-22


def test_values_that_decide_leave_everything_outside():
    model = Net(
        lambda m, x: m.act(m.norm(x)) if x.sum() > 0 else x, norm=nn.BatchNorm2d(3), act=nn.ReLU()
    )
    fused, changes = bn.convert(model, X.abs())
    assert fused.norm.activation is None and "decides by values" in changes[0].reason


def test_an_activation_called_at_two_places_stays_where_only_one_is_taken():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.act = nn.BatchNorm2d(3), nn.ReLU()

        def forward(self, x):
            return self.act(self.norm(self.act(x)))

    model = randomized(Two())
    fused, _ = bn.convert(model, X)
    assert fused.norm.activation == "relu" and type(fused.act) is nn.ReLU
    assert torch.allclose(run(fused, X)[0], run(model, X)[0], atol=1e-6)


def test_an_activation_shared_in_a_sequence_stays_where_only_one_is_taken():
    act = nn.ReLU()
    model = randomized(nn.Sequential(nn.BatchNorm2d(3), act, nn.Conv2d(3, 3, 1), act))
    fused, changes = bn.convert(model, X)
    assert fused[0].activation is None and type(fused[1]) is nn.ReLU
    assert "follows its list of modules" in changes[0].reason


def test_an_activation_shared_by_normalizations_goes_for_all():
    act = nn.ReLU(inplace=True)
    model = randomized(nn.Sequential(nn.BatchNorm2d(3), act, nn.BatchNorm2d(3), act))
    fused, _ = bn.convert(model, X)
    assert fused[0].activation == fused[2].activation == "relu" and fused[1] is fused[3]
    assert isinstance(fused[1], nn.Identity)
    back, _ = bn.convert(fused, to="torch")
    assert back[1] is back[3] and type(back[1]) is nn.ReLU and back[1].inplace


@pytest.mark.parametrize("where", ["norm", "act"])
def test_what_a_hook_sees_stays_what_it_was(where):
    model = randomized(nn.Sequential())
    model.norm, model.act = nn.BatchNorm2d(3), nn.ReLU()
    seen = []
    getattr(model, where).register_forward_hook(
        lambda m, a, y: seen.append(y.detach().sum().item())
    )
    fused, changes = bn.convert(model, X)
    assert fused.norm.activation is None and "decides by values" in changes[0].reason
    seen.clear()
    fused.eval()(X)
    model.eval()(X)
    assert seen[0] == pytest.approx(seen[1], rel=1e-5)


@pytest.mark.parametrize("where", ["norm", "act"])
@pytest.mark.parametrize("kind", ["forward", "forward_pre", "full_backward"])
def test_a_hook_keeps_an_activation_outside(where, kind):
    model = randomized(nn.Sequential(nn.Conv2d(3, 3, 1)))
    model.norm, model.act = nn.BatchNorm2d(3), nn.ReLU()
    getattr(getattr(model, where), f"register_{kind}_hook")(lambda *args: None)
    fused, changes = bn.convert(model, X)
    # What the hook in front of the normalization sees does not change.
    assert fused.norm.activation is None and re.search("a hook on|reads it", changes[0].reason)


@pytest.mark.parametrize("kind", ["forward", "full_backward"])
def test_a_hook_keeps_an_addition_outside(kind):
    model = traceable(plus_reflected)
    getattr(model.norm, f"register_{kind}_hook")(lambda *args: None)
    fused, changes = bn.convert(model, X)
    assert fused.norm.activation is None and type(fused) is type(model)
    assert re.search("a hook on|reads it", changes[0].reason)


def test_a_hook_on_a_container_between_keeps_it_called():
    class Outer(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3))

        def forward(self, x):
            return F.relu(self.inner(x) + x)

    model = randomized(Outer())
    taken, _ = bn.convert(model, X)
    assert taken.inner[1].activation == "relu"
    calls = []
    model.inner.register_forward_hook(lambda *args: calls.append(1))
    fused, _ = bn.convert(model, X)
    calls.clear()
    fused(X)
    assert calls == [1] and fused.inner[1].activation is None


def test_converting_again_changes_nothing():
    fused, _ = bn.convert(traceable(plus_in_place), X)
    again, changes = bn.convert(fused, X)
    assert [change.action for change in changes] == ["keep"]
    assert type(again) is type(fused)
    back, _ = bn.convert(again, to="torch")
    assert type(back.norm) is nn.BatchNorm2d and "source" not in dir(type(back))


def test_a_hook_on_the_owner_stays():
    model = traceable(plus_in_place)
    model.register_forward_hook(lambda m, a, y: y + 1)
    fused, _ = bn.convert(model, X)
    assert fused.norm.activation == "relu"
    assert torch.allclose(run(fused, X)[0], run(model, X)[0], atol=1e-6)
    assert float(run(fused, X)[0].min()) >= 1


def test_needs_an_example():
    with pytest.raises(SurgeryError, match="expected example inputs, found none"):
        bn.convert(nn.Sequential(nn.BatchNorm2d(3)))


def test_needs_two_samples():
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    with pytest.raises(SurgeryError, match=r"more than 1 value per channel"):
        bn.convert(model, torch.randn(1, 3))
