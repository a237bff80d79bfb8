"""`fold` on frozen normalizations of other libraries, which are no classes of PyTorch's."""

import pytest
import torch
from torch import nn

import batchnorm as bn
from batchnorm.surgery.folding.frozen import eps_of

from .nets import distance, run
from .test_fold import images

X = images(2, 3, 6, 6)


class Frozen(nn.Module):
    """Written as object detectors write it: four buffers, and eps somewhere in the code."""

    def __init__(self, num_features, eps=1e-3):
        super().__init__()
        generator = torch.Generator().manual_seed(2)
        for name, low in (("weight", 0.5), ("bias", -1), ("running_mean", 2), ("running_var", 0.1)):
            tensor = low + torch.rand(num_features, generator=generator)
            self.register_buffer(name, tensor)
        self.hidden = eps

    def forward(self, x):
        scale = self.weight.view(1, -1, 1, 1) * (self.running_var + self.hidden).rsqrt().view(
            1, -1, 1, 1
        )
        return x * scale + self.bias.view(1, -1, 1, 1) - self.running_mean.view(1, -1, 1, 1) * scale


class WithoutAffine(Frozen):
    def __init__(self, num_features):
        super().__init__(num_features)
        del self.weight, self.bias

    def forward(self, x):
        mean, var = (t.view(1, -1, 1, 1) for t in (self.running_mean, self.running_var))
        return (x - mean) / (var + 0.25).sqrt()


class Activated(Frozen):
    def forward(self, x):
        return super().forward(x).clamp(min=-20)


class Deciding(Frozen):
    def forward(self, x):
        y = super().forward(x)
        return y if x.max() < 1e9 else y + 1


class Swapped(Frozen):
    """Takes the mean for the bias: what no name tells."""

    def forward(self, x):
        mean, bias = self.running_mean, self.bias
        scale = (self.weight / (self.running_var + 1e-5).sqrt()).view(1, -1, 1, 1)
        return x * scale + mean.view(1, -1, 1, 1) - bias.view(1, -1, 1, 1) * scale


class Standing(Frozen):
    """Has one more tensor, of which nobody knows what it does."""

    def __init__(self, num_features):
        super().__init__(num_features)
        self.register_buffer("more", torch.ones(num_features))


@pytest.mark.parametrize("cls", [Frozen, WithoutAffine])
def test_folds_into_the_layers_beside_it(cls):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), cls(4), nn.ReLU(), cls(4), nn.Conv2d(4, 2, 1))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    folded, changes = bn.fold(model, X)
    assert [c.action for c in changes] == ["fold into Conv2d '0'", "fold into Conv2d '4'"]
    assert [type(m).__name__ for m in folded] == [
        "Conv2d",
        "Identity",
        "ReLU",
        "Identity",
        "Conv2d",
    ]
    assert distance(run(folded, X), run(model.double(), X.double())) < 3e-6
    assert all(torch.equal(before[n], t.float()) for n, t in model.state_dict().items())


def test_one_that_is_left_is_itself_again():
    model = nn.Sequential(nn.ReLU(), Frozen(3), nn.ReLU(), Frozen(3), nn.BatchNorm2d(3))
    folded, changes = bn.fold(model, X)
    assert [type(m) for m in folded] == [nn.ReLU, Frozen, nn.ReLU, nn.Identity, nn.BatchNorm2d]
    assert [c.action for c in changes] == [
        "fold into BatchNorm2d '4'",
        "leave alone",
        "leave alone",
    ]
    assert "ReLU '0' feeds it, not a layer" in changes[1].reason
    assert torch.equal(folded[1](X), model[1](X))
    assert list(folded.state_dict()) == [n for n in model.state_dict() if not n.startswith("3.")]


def test_nothing_goes_into_one_that_may_come_back():
    model = nn.Sequential(nn.ReLU(), nn.BatchNorm2d(3), Frozen(3), nn.ReLU())
    folded, changes = bn.fold(model, X)
    assert [change.action for change in changes] == ["leave alone"] * 2
    assert distance(run(folded, X), run(model, X)) == 0


def test_shared_ones_stay_shared():
    norm = Frozen(3)
    model = nn.Sequential(nn.ReLU(), norm, nn.ReLU(), norm, nn.ReLU())
    folded, _ = bn.fold(model, X)
    assert folded[1] is folded[3] and type(folded[1]) is Frozen


def hooked(num_features):
    norm = Frozen(num_features)
    norm.register_forward_hook(lambda module, args, output: None)
    return norm


@pytest.mark.parametrize("make", [Activated, Deciding, Swapped, Standing, hooked])
def test_what_only_looks_like_one_is_left_by_name(make):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), make(4))
    folded, changes = bn.fold(model, X)
    assert type(folded[1]) is type(model[1])
    reason = "decides by values" if make is Deciding else "has a forward of its own"
    assert reason in changes[0].reason
    assert distance(run(folded, X), run(model, X)) == 0


def test_eps_is_found_wherever_it_is_kept():
    assert eps_of(Frozen(3, 0.01)) == pytest.approx(0.01, rel=1e-12)
    assert eps_of(WithoutAffine(3)) == pytest.approx(0.25, rel=1e-12)
    assert eps_of(nn.BatchNorm1d(3, eps=0.5).eval()) == pytest.approx(0.5, rel=1e-12)
    assert eps_of(Frozen(3, 0.0)) is None  # x / √0: nothing to tell by
    assert eps_of(nn.Linear(3, 3)) is None
    assert eps_of(nn.Identity()) is None
