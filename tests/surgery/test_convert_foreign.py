"""`convert` on batch normalization of other libraries, written here as they write it."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import batchnorm as bn
from batchnorm import nn as ours

from .equal import same_states, step
from .nets import randomized, run
from .test_fold import images

X = images(4, 3, 6, 6)


class BatchNormAct2d(nn.BatchNorm2d):
    """Normalization, dropout and activation in one, by `F.batch_norm`."""

    def __init__(self, num_features, act=nn.ReLU, eps=1e-5, momentum=0.1):
        super().__init__(num_features, eps=eps, momentum=momentum)
        self.drop = nn.Identity()
        self.act = act(inplace=True) if act is nn.ReLU else act()

    def forward(self, x):
        if self.training:
            self.num_batches_tracked.add_(1)
        running = self.running_mean, self.running_var
        x = F.batch_norm(
            x, *running, self.weight, self.bias, self.training, self.momentum, self.eps
        )
        return self.act(self.drop(x))


class FrozenBatchNorm2d(nn.Module):
    """Four buffers and no parameter."""

    eps = 1e-5

    def __init__(self, num_features, eps=None):
        super().__init__()
        if eps is not None:
            self.eps = eps
        for name, value in (("weight", 1), ("bias", 0), ("running_mean", 0), ("running_var", 1)):
            generator = torch.Generator().manual_seed(len(name))
            noise = torch.rand(num_features, generator=generator) / 2
            self.register_buffer(name, noise + value)

    def forward(self, x):
        scale = self.weight * (self.running_var + self.eps).rsqrt()
        shift = self.bias - self.running_mean * scale
        return x * scale[:, None, None] + shift[:, None, None]


class FrozenBatchNormOfDetr(FrozenBatchNorm2d):
    """Its eps is written down in its forward."""

    eps = None

    def forward(self, x):
        scale = self.weight * (self.running_var + 1e-3).rsqrt()
        return x * scale[:, None, None] + (self.bias - self.running_mean * scale)[:, None, None]


class WrongFrozenBatchNorm2d(FrozenBatchNorm2d):
    """Divides by the variance."""

    def forward(self, x):
        scale = self.weight / (self.running_var + self.eps)
        return x * scale[:, None, None] + (self.bias - self.running_mean * scale)[:, None, None]


class InstanceBatchNorm(nn.BatchNorm2d):
    """Normalizes each sample in training."""

    def forward(self, x):
        return F.instance_norm(x) if self.training else super().forward(x)


ACTIVATIONS = {"relu": nn.ReLU, "silu": nn.SiLU, None: nn.Identity}


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_with_an_activation_of_its_own(activation):
    layer = BatchNormAct2d(3, ACTIVATIONS[activation], eps=1e-3, momentum=0.3)
    model = randomized(nn.Sequential(nn.Conv2d(3, 3, 1), layer))
    converted, changes = bn.convert(model, X, to="batchnorm")
    assert type(converted[1]) is ours.BatchNorm2d and converted[1].activation == activation
    assert "compared on random numbers" in changes[0].reason
    same_states(converted, model)
    torch.testing.assert_close(step(converted, X), step(model, X), rtol=1e-9, atol=1e-12)
    back, _ = bn.convert(converted, X, to="torch")
    assert type(back[1]) is BatchNormAct2d
    assert {n: type(m) for n, m in back.named_modules()} == {
        n: type(m) for n, m in model.named_modules()
    }
    assert vars(back[1]).keys() == vars(layer).keys()


def test_with_an_activation_that_ours_do_not_have():
    model = randomized(nn.Sequential(BatchNormAct2d(3, nn.Mish)))
    left, changes = bn.convert(model, X)
    assert type(left[0]) is BatchNormAct2d
    assert changes[0].action == "leave alone"
    assert changes[0].reason.startswith("its class BatchNormAct2d has a forward of its own")


FROZEN = {
    "class eps": FrozenBatchNorm2d,
    "own eps": lambda n: FrozenBatchNorm2d(n, 0.1),
    "hidden eps": FrozenBatchNormOfDetr,
}


@pytest.mark.parametrize("case", FROZEN)
def test_frozen(case):
    make = FROZEN[case]
    model = nn.Sequential(nn.Conv2d(3, 3, 1), make(3), nn.ReLU())
    fused, changes = bn.convert(model, X)
    assert type(fused[1]) is ours.BatchNorm2d and fused[1].activation == "relu"
    assert "frozen" in changes[0].action
    same_states(fused, model)
    assert [n for n, _ in fused.named_parameters()] == [n for n, _ in model.named_parameters()]
    before = [b.clone() for b in fused.buffers()]
    torch.testing.assert_close(fused.train()(X), model.train()(X))
    assert all(map(torch.equal, before, fused.buffers()))
    back, _ = bn.convert(fused, X, to="torch")
    assert [type(m) for m in back] == [type(m) for m in model]
    assert vars(back[1]).keys() == vars(model[1]).keys()
    assert all(map(torch.equal, run(back, X), run(model, X)))


def test_a_frozen_layer_loads_what_its_class_loaded():
    model = nn.Sequential(FrozenBatchNorm2d(3))
    converted = bn.convert(model, to="batchnorm").model
    state = randomized(nn.Sequential(nn.BatchNorm2d(3))).state_dict()
    converted.load_state_dict(state)  # a counter in it is passed over
    assert torch.equal(converted[0].weight, state["0.weight"])
    converted.load_state_dict(dict(model.state_dict()))  # and is not asked for
    same_states(converted, model)


@pytest.mark.parametrize("cls", [WrongFrozenBatchNorm2d, InstanceBatchNorm])
def test_what_computes_something_else_is_refused_by_name(cls):
    model = randomized(nn.Sequential(cls(3), nn.ReLU()))
    left, changes = bn.convert(model, X)
    assert type(left[0]) is cls and type(left[1]) is nn.ReLU
    assert changes[0].reason == (
        f"its class {cls.__name__} has a forward of its own, and computes something else than our "
        "layers"
    )


@pytest.mark.parametrize("to", ["group", "torch"])
def test_other_libraries_layers_become_nothing_else(to):
    model = nn.Sequential(FrozenBatchNorm2d(3), BatchNormAct2d(3))
    left, changes = bn.convert(model, to=to)
    assert [type(m) for m in left] == [type(m) for m in model]
    assert [c.action for c in changes] == ["leave alone"] * 2
    assert all(c.reason.startswith("its class ") for c in changes)
