"""What `fold` leaves alone, each with its reason; and the outputs stay what they were."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

import batchnorm as bn

from .nets import Net, norms, randomized, run
from .test_fold import images

X = images(2, 3, 6, 6)


def pair():
    return {"conv": nn.Conv2d(3, 3, 3, padding=1), "norm": nn.BatchNorm2d(3)}


def ours(**options):
    return {"conv": nn.Conv2d(3, 3, 3, padding=1), "norm": bn.BatchNorm2d(3, **options)}


def parametrized(wrap):
    parts = pair()
    wrap(parts["conv"])
    return Net(lambda m, x: m.norm(m.conv(x)).relu(), **parts)


def hooked(child, register):
    model = Net(lambda m, x: m.norm(m.conv(x)).relu(), **pair())
    getattr(model.get_submodule(child), register)(lambda *args: None)
    return model


def hooked_around():
    model = Net(lambda m, x: m.norm(m.inner(x)).relu(), inner=nn.Sequential(nn.Conv2d(3, 3, 3)))
    model.norm = nn.BatchNorm2d(3)
    model.inner.register_forward_hook(lambda module, args, output: None)
    return model


def listed():
    model = Net(lambda m, x: m.steps[1](m.steps[0](x)).relu(), **pair())
    model.steps = [model.conv, model.norm]
    return model


def kept(m, x):
    m.seen = m.conv(x)
    return m.norm(m.seen).relu()


def as_numpy(m, x):
    y = m.conv(x)
    size = np.abs(y.numpy()).max()
    return m.norm(y).relu() * float(size > 0)


def written_to(m, x):
    y = m.conv(x)
    z = m.norm(y)
    y.mul_(2)
    return z.relu() + y


def through_a_view(m, x):
    y = m.conv(x)
    return m.norm(y).relu() + y.view(-1)[:1]


def decides(m, x):
    y = m.norm(m.conv(x))
    return y.relu() if y.sum() > 0 else y.tanh()


def always_trains(m, x):
    m.norm.train()
    return m.norm(m.conv(x)).relu()


def functional(m, x):
    y = m.conv(x)
    return F.batch_norm(y, m.norm.running_mean, m.norm.running_var).relu()


def dead(m, x):
    return m.conv(x)


def shares(m, x):
    return m.norm(m.conv(x)).relu() + F.conv2d(x, m.conv.weight, padding=1)


def reads_statistics(m, x):
    return m.norm(m.conv(x)).relu() + m.norm.running_mean.sum()


class Activated(nn.BatchNorm2d):
    def forward(self, input):
        return super().forward(input).relu()


class Biasless(nn.Conv2d):
    def forward(self, input):
        return F.conv2d(input, self.weight)


class Fussy(nn.Conv2d):
    def forward(self, input):
        assert self.bias is None
        return F.conv2d(input, self.weight, self.bias)


class Standardized(nn.Conv2d):
    """Computes its weight, as weight standardization does."""

    def forward(self, input):
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return F.conv2d(input, weight, self.bias)


def unbounded():
    model = Net(lambda m, x: m.norm(m.conv(x)).relu(), **pair())
    with torch.no_grad():
        model.conv.weight.fill_(1e38)
        model.norm.running_var.fill_(1e-20)
    return model


def sequence(*modules):
    return lambda: nn.Sequential(*modules)


CONV = "conv2d in Conv2d 'conv' feeds it, but "
LEFT = {
    "read twice": (lambda m, x: (lambda y: m.norm(y).relu() + y)(m.conv(x)), pair, "add in Net"),
    "returned": (lambda m, x: (lambda y: (m.norm(y).relu(), y))(m.conv(x)), pair, "returns it"),
    "returned in a dict": (
        lambda m, x: (lambda y: {"y": m.norm(y).relu(), "at": [y]})(m.conv(x)),
        pair,
        CONV + "the model returns it",
    ),
    "kept": (kept, pair, CONV + "something keeps it after the run"),
    "given to NumPy": (as_numpy, pair, CONV + "numpy in Net 'the model itself' "),
    "written to": (written_to, pair, "mul_ in Net 'the model itself' reads it, too"),
    "read through a view": (through_a_view, pair, "view in Net 'the model itself' reads it, too"),
    "decided by values": (decides, pair, "__bool__ in Net 'the model itself' decides by values"),
    "in training mode": (always_trains, pair, "in training mode even when"),
    "as a function": (functional, pair, "it did not run on the example"),
    "not called": (dead, pair, "it did not run on the example"),
    "weight read elsewhere": (
        shares,
        pair,
        "Conv2d 'conv': its parameters or buffers are read by conv2d in Net 'the model itself'",
    ),
    "statistics read elsewhere": (
        reads_statistics,
        pair,
        "its parameters or buffers are read by sum in Net 'the model itself'",
    ),
    "with a mask": (
        lambda m, x: m.norm(m.conv(x), mask=x[:, 0] > -9),
        ours,
        "it is called with mask=",
    ),
    "its own residual": (
        lambda m, x: (lambda y: m.norm(y, y))(m.conv(x)),
        ours,
        CONV + "it is the residual, too",
    ),
    "conv for two norms": (
        lambda m, x: m.norm(m.conv(x)).relu() + m.other(m.conv(x)).relu(),
        lambda: {**pair(), "other": nn.BatchNorm2d(3)},
        "feeds something else",
    ),
    "conv alone, too": (
        lambda m, x: m.norm(m.conv(x)).relu() + m.conv(x + 1),
        pair,
        "conv2d in Conv2d 'conv', call 2 feeds something else",
    ),
    "norm for a conv and a pool": (
        lambda m, x: m.norm(m.conv(x)).relu() + m.norm(F.max_pool2d(x, 3, 1, 1)).relu(),
        pair,
        "max_pool2d in Net 'the model itself' feeds it, not a layer",
    ),
    "activation between": (
        lambda m, x: m.norm(m.conv(x).relu()).relu(),
        pair,
        "relu in Net 'the model itself' feeds it, not a layer; relu in Net",
    ),
    "activation between, in place": (
        lambda m, x: m.norm(m.conv(x).relu_()).relu(),
        pair,
        "relu_ in Net 'the model itself' feeds it, not a layer",
    ),
    "padding before a conv": (
        lambda m, x: m.conv(m.norm(x)),
        pair,
        "Conv2d 'conv' reads it, and pads with zeros",
    ),
    "own activation before a conv": (
        lambda m, x: m.conv(m.norm(x)),
        lambda: ours(activation="relu"),
        "its activation comes before what reads it",
    ),
    "conv reads another input, too": (
        lambda m, x: m.conv(m.norm(x)) + m.conv(x),
        lambda: {"conv": nn.Conv2d(3, 3, 1), "norm": nn.BatchNorm2d(3)},
        "Conv2d 'conv', call 2 reads something else",
    ),
    "on another axis": (
        lambda m, x: m.norm(m.fc(x[:, 0])).relu(),
        lambda: {"fc": nn.Linear(6, 6), "norm": nn.BatchNorm1d(6)},
        "the channels of Linear 'fc' are not those that it normalizes, axis 1",
    ),
    "on another axis ahead": (
        lambda m, x: m.fc(m.norm(x[:, 0])),
        lambda: {"fc": nn.Linear(6, 6), "norm": nn.BatchNorm1d(6)},
        "Linear 'fc' takes its channels on another axis",
    ),
    "transposed conv ahead": (
        lambda m, x: m.up(m.norm(x)),
        lambda: {"up": nn.ConvTranspose2d(3, 3, 2), "norm": nn.BatchNorm2d(3)},
        "gives each place another number of inputs",
    ),
}
MODELS = {
    "weight_norm": (lambda: parametrized(parametrizations.weight_norm), "a parametrization (_Weig"),
    "spectral_norm": (lambda: parametrized(parametrizations.spectral_norm), "(_SpectralNorm)"),
    "forward hook": (lambda: hooked("norm", "register_forward_hook"), "it has hooks"),
    "hook before": (
        lambda: hooked("conv", "register_forward_pre_hook"),
        "Conv2d 'conv': it has hooks",
    ),
    "backward hook": (lambda: hooked("conv", "register_full_backward_hook"), "it has hooks"),
    "hook around": (hooked_around, "a hook on Sequential 'inner' sees it"),
    "in a list, too": (listed, "the attribute 'steps' holds it, too"),
    "activated subclass": (
        sequence(nn.Conv2d(3, 3, 3), Activated(3)),
        "its class Activated has a forward of its own",
    ),
    "conv of its own without bias": (
        sequence(Biasless(3, 3, 3, bias=False), nn.BatchNorm2d(3), nn.ReLU()),
        "Biasless '0' has a forward of its own, and no bias",
    ),
    "conv of its own that refuses a bias": (
        sequence(Fussy(3, 3, 3, bias=False), nn.BatchNorm2d(3), nn.ReLU()),
        "Fussy '0' has a forward of its own, and no bias",
    ),
    "pooling that counts a border of zeros": (
        sequence(nn.Conv2d(3, 3, 3), nn.AvgPool2d(3, padding=1), nn.BatchNorm2d(3), nn.ReLU()),
        "the channels of Conv2d '0' are not those that it normalizes",
    ),
    "pooling of one channel that counts a border of zeros": (
        sequence(nn.Conv2d(3, 1, 3), nn.AvgPool2d(3, padding=1), nn.BatchNorm2d(1), nn.ReLU()),
        "the channels of Conv2d '0' are not those that it normalizes",
    ),
    "pooling by the largest": (
        sequence(nn.Conv2d(3, 3, 3), nn.MaxPool2d(2), nn.BatchNorm2d(3), nn.ReLU()),
        "MaxPool2d '1' feeds it, not a layer",
    ),
    "interpolation with negative weights": (
        sequence(
            nn.Conv2d(3, 3, 3), nn.Upsample(scale_factor=2, mode="bicubic"), nn.BatchNorm2d(3)
        ),
        "Upsample '1' feeds it, not a layer",
    ),
    "a mean over channels": (
        lambda: Net(
            lambda m, x: m.norm(m.conv(x).unflatten(1, (3, 2)).mean(1)).relu(),
            conv=nn.Conv2d(3, 6, 3),
            norm=nn.BatchNorm2d(2),
        ),
        "the channels of Conv2d 'conv' are not those that it normalizes",
    ),
    "standardized conv": (
        sequence(Standardized(3, 3, 3), nn.BatchNorm2d(3), nn.ReLU()),
        "which is no layer that has its weight as a parameter",
    ),
    "no statistics": (
        sequence(nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3, track_running_stats=False)),
        "it has no running statistics",
    ),
    "too large": (unbounded, "the weight of Conv2d 'conv' would not be finite"),
    "alone": (lambda: nn.BatchNorm2d(3), "it is the model itself"),
    "first, and an activation": (
        sequence(nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 3, 1)),
        "an input of the model feeds it; relu in ReLU '1' reads it, not a layer",
    ),
}
ALL = {name: (lambda f=f, p=p: Net(f, **p()), reason) for name, (f, p, reason) in LEFT.items()}
ALL |= MODELS


@pytest.mark.parametrize("case", ALL)
def test_leaves_with_the_reason(case):
    make, reason = ALL[case]
    torch.manual_seed(0)
    model = make()
    if case != "too large":
        model = randomized(model)
    folded, changes = bn.fold(model, X)
    assert norms(folded) == norms(model)
    assert [change.action for change in changes] == ["leave alone"] * len(changes)
    assert reason in changes[0].reason
    for a, b in zip(run(folded, X), run(model, X), strict=True):
        assert torch.equal(a, b)


def test_names_a_normalization_called_as_a_function():
    model = Net(functional, **pair())
    changes = bn.fold(model, X, dry_run=True)
    assert str(changes[-1]) == (
        "(model): leave alone (batch_norm in Net 'the model itself' is no layer that could be "
        "replaced)"
    )


def test_frozen_layers_fold_as_well():
    model = randomized(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)))
    model[1].eval().requires_grad_(False)
    model[0].weight.requires_grad_(False)
    folded, _ = bn.fold(model.train(), X)
    assert not norms(folded)
    assert not folded[0].weight.requires_grad
    assert folded[0].bias.requires_grad
    assert folded[0].training


def test_a_new_bias_is_trained_where_the_shift_was():
    model = randomized(nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4)))
    model[1].bias.requires_grad_(False)
    folded, _ = bn.fold(model, X)
    assert folded[0].weight.requires_grad
    assert not folded[0].bias.requires_grad


def test_zero_padding_is_an_obstacle_whatever_the_shift():
    model = nn.Sequential(nn.BatchNorm2d(3, affine=False), nn.Conv2d(3, 4, 3, padding=1))
    model[0].running_var.fill_(4.0)  # and a mean of 0: the shift is 0, and may not be tomorrow
    _, changes = bn.fold(model, X)
    assert "Conv2d '1' reads it, and pads with zeros" in str(changes[0])
