"""`fold` on nets made for one case each: what goes where, held against the float64 model."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import batchnorm as bn

from .nets import Net, distance, norms, randomized, reference, run


def images(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def conv_transposed(groups, cls=nn.ConvTranspose2d, norm=nn.BatchNorm2d):
    return nn.Sequential(
        cls(6, 8, 3, stride=2, padding=1, output_padding=1, groups=groups), norm(8), nn.ReLU()
    )


def residual_block():
    return Net(
        lambda m, x: m.bn2(m.conv2(m.bn1(m.conv1(x))), x),
        conv1=nn.Conv2d(4, 4, 3, padding=1, bias=False),
        bn1=bn.BatchNorm2d(4, activation="silu"),
        conv2=nn.Conv2d(4, 4, 3, padding=1, bias=False),
        bn2=bn.BatchNorm2d(4, activation="relu"),
    )


def one_norm_behind_two_layers():
    return Net(
        lambda m, x: m.norm(m.a(x)) + m.norm(m.b(x)),
        a=nn.Conv2d(3, 4, 3),
        b=nn.Conv2d(3, 4, 3, bias=False),
        norm=nn.BatchNorm2d(4),
    )


def heads_behind_a_norm():
    return Net(
        lambda m, x: (lambda y: (m.q(y), {"k": m.k(y)}))(m.norm(x)),
        norm=nn.BatchNorm1d(5),
        q=nn.Linear(5, 3),
        k=nn.Linear(5, 2, bias=False),
    )


def flatten_functionally():
    return Net(
        lambda m, x: m.fc(torch.flatten(m.norm(x), 1)), norm=nn.BatchNorm2d(3), fc=nn.Linear(48, 5)
    )


def tokens():
    """A linear layer on (N, L, F), normalized on (N·L, F): as in LeViT."""
    return Net(
        lambda m, x: (lambda y: m.norm(y.flatten(0, 1)).reshape_as(y))(m.fc(x)),
        fc=nn.Linear(5, 4, bias=False),
        norm=nn.BatchNorm1d(4),
    )


def features_second():
    """A linear layer on (N, L, F), normalized on (N, F, L): PyTorch's advice for sequences."""
    return Net(
        lambda m, x: m.norm(m.fc(x).transpose(1, 2)), fc=nn.Linear(5, 4), norm=nn.BatchNorm1d(4)
    )


def channel_shuffle():
    """Groups of channels exchanged between the convolution and its normalization."""

    def forward(m, x):
        y = m.conv(x)
        n, c, h, w = y.shape
        y = y.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)
        return m.norm(y).relu()

    return Net(forward, conv=nn.Conv2d(3, 6, 3), norm=nn.BatchNorm2d(6))


def shuffled_pixels():
    return nn.Sequential(nn.Conv2d(3, 16, 1), nn.PixelShuffle(2), nn.BatchNorm2d(4))


def grouped_mean():
    """Each channel is spread over two, and their mean is that channel again."""

    def forward(m, x):
        return m.norm(m.conv(x).unsqueeze(1).repeat(1, 2, 1, 1, 1).mean(1))

    return Net(forward, conv=nn.Conv2d(3, 4, 3), norm=nn.BatchNorm2d(4))


def pooled_by_mean():
    return Net(
        lambda m, x: m.fc(m.norm(x).mean((2, 3))), norm=nn.BatchNorm2d(3), fc=nn.Linear(3, 5)
    )


def same_pair_twice():
    return Net(
        lambda m, x: m.norm(m.conv(m.norm(m.conv(x)).relu())),
        conv=nn.Conv2d(3, 3, 3),
        norm=nn.BatchNorm2d(3),
    )


def tied():
    a, b = nn.Linear(5, 5), nn.Linear(5, 5)
    b.weight = a.weight
    return nn.Sequential(a, nn.BatchNorm1d(5), nn.ReLU(), b, nn.BatchNorm1d(5), nn.ReLU())


def kept_training(norm):
    norm.train()
    return norm


class OwnForward(nn.Conv2d):
    def forward(self, input):
        return F.conv2d(F.pad(input, (0, 1, 0, 1)), self.weight, self.bias, self.stride)


FOLDED = {
    "conv1d": (lambda: nn.Sequential(nn.Conv1d(3, 4, 3), nn.BatchNorm1d(4)), images(2, 3, 9)),
    "conv2d": (
        lambda: nn.Sequential(nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)),
        images(2, 3, 6, 6),
    ),
    "conv3d": (
        lambda: nn.Sequential(nn.Conv3d(3, 4, 3, stride=2), nn.BatchNorm3d(4)),
        images(2, 3, 7, 5, 5),
    ),
    "grouped conv": (
        lambda: nn.Sequential(nn.Conv2d(6, 8, 3, groups=2), nn.BatchNorm2d(8)),
        images(2, 6, 5, 5),
    ),
    "depthwise conv": (
        lambda: nn.Sequential(nn.Conv2d(6, 12, 3, groups=6, bias=False), nn.BatchNorm2d(12)),
        images(2, 6, 5, 5),
    ),
    "linear": (lambda: nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4)), images(7, 5)),
    "without affine": (
        lambda: nn.Sequential(nn.Linear(5, 4, bias=False), nn.BatchNorm1d(4, affine=False)),
        images(7, 5),
    ),
    "conv_transpose1d": (
        lambda: conv_transposed(1, nn.ConvTranspose1d, nn.BatchNorm1d),
        images(2, 6, 5),
    ),
    "conv_transpose2d": (lambda: conv_transposed(1), images(2, 6, 5, 4)),
    "conv_transpose2d in groups": (lambda: conv_transposed(2), images(2, 6, 5, 4)),
    "conv_transpose3d": (
        lambda: conv_transposed(2, nn.ConvTranspose3d, nn.BatchNorm3d),
        images(1, 6, 3, 4, 3),
    ),
    "sync": (
        lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.SyncBatchNorm(4), nn.ReLU()),
        images(2, 3, 6, 6),
    ),
    "ours": (lambda: nn.Sequential(nn.Conv2d(3, 4, 3), bn.BatchNorm2d(4)), images(2, 3, 6, 6)),
    "residual block of ours": (residual_block, images(2, 4, 6, 6)),
    "in-place activation": (
        lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True)),
        images(2, 3, 6, 6),
    ),
    "dropout between": (
        lambda: nn.Sequential(nn.Linear(5, 4), nn.Dropout(), nn.BatchNorm1d(4)),
        images(7, 5),
    ),
    "one norm behind two layers": (one_norm_behind_two_layers, images(2, 3, 6, 6)),
    "the same pair twice": (same_pair_twice, images(2, 3, 8, 8)),
    "tied weights": (tied, images(7, 5)),
    "norm, then conv": (
        lambda: nn.Sequential(nn.BatchNorm2d(4), nn.Conv2d(4, 6, 3, groups=2, bias=False)),
        images(2, 4, 6, 6),
    ),
    "norm, then conv that repeats the border": (
        lambda: nn.Sequential(
            nn.BatchNorm2d(4), nn.Conv2d(4, 6, 3, padding=1, padding_mode="replicate")
        ),
        images(2, 4, 6, 6),
    ),
    "norm, then padded conv of size 1": (
        lambda: nn.Sequential(nn.BatchNorm1d(4), nn.Conv1d(4, 6, 1, padding="same")),
        images(2, 4, 6),
    ),
    "norm, then conv_transpose of one tap": (
        lambda: nn.Sequential(nn.BatchNorm2d(4), nn.ConvTranspose2d(4, 6, 1, groups=2)),
        images(2, 4, 6, 6),
    ),
    "norm, then linear": (
        lambda: nn.Sequential(nn.BatchNorm1d(5), nn.Linear(5, 4, bias=False)),
        images(7, 5),
    ),
    "norm, flatten, linear": (
        lambda: nn.Sequential(nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(48, 5)),
        images(2, 3, 4, 4),
    ),
    "norm, flatten as a function, linear": (flatten_functionally, images(2, 3, 4, 4)),
    "norm, two heads": (heads_behind_a_norm, images(7, 5)),
    "conv, norm, norm": (
        lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), bn.BatchNorm2d(4)),
        images(2, 3, 6, 6),
    ),
    "norm, norm, linear": (
        lambda: nn.Sequential(nn.BatchNorm1d(5), nn.BatchNorm1d(5), nn.Linear(5, 2)),
        images(7, 5),
    ),
    "norm on both sides": (
        lambda: nn.Sequential(nn.BatchNorm1d(5), nn.Linear(5, 4), nn.BatchNorm1d(4)),
        images(7, 5),
    ),
    "linear on tokens": (tokens, images(2, 3, 5)),
    "linear, transposed": (features_second, images(2, 4, 5)),
    "channels shuffled": (channel_shuffle, images(2, 3, 6, 6)),
    "pixels shuffled": (shuffled_pixels, images(2, 3, 6, 6)),
    "a mean over groups of equal channels": (grouped_mean, images(2, 3, 6, 6)),
    "norm, global pooling, linear": (
        lambda: nn.Sequential(
            nn.BatchNorm2d(3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 5)
        ),
        images(2, 3, 4, 6),
    ),
    "norm, mean, linear": (pooled_by_mean, images(2, 3, 4, 6)),
    "conv, pooling, norm": (
        lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.AvgPool2d(2), nn.BatchNorm2d(4)),
        images(2, 3, 8, 8),
    ),
    "conv, pooling with a border that does not count, norm": (
        lambda: nn.Sequential(
            nn.Conv1d(3, 4, 3),
            nn.Upsample(scale_factor=3, mode="linear"),
            nn.AvgPool1d(3, padding=1, count_include_pad=False),
            nn.BatchNorm1d(4),
        ),
        images(2, 3, 8),
    ),
    "conv, larger, norm": (
        lambda: nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.Upsample(scale_factor=2, mode="bilinear"), nn.BatchNorm2d(4)
        ),
        images(2, 3, 6, 6),
    ),
    "conv with a forward of its own, and none yet": (
        lambda: nn.Sequential(OwnForward(3, 4, 3, bias=False), nn.BatchNorm2d(4)),
        images(2, 3, 6, 6),
    ),
    "conv with a forward of its own, and a bias": (
        lambda: nn.Sequential(OwnForward(3, 4, 3), nn.BatchNorm2d(4)),
        images(2, 3, 6, 6),
    ),
}


@pytest.mark.parametrize("case", FOLDED)
def test_folds_all_and_changes_nothing_else(case):
    make, x = FOLDED[case]
    torch.manual_seed(0)
    model = randomized(make())
    folded, changes = bn.fold(model, x)
    assert norms(model) and not norms(folded)
    assert {change.name for change in changes} == set(norms(model))
    assert all(change.action.startswith("fold into ") for change in changes)
    # Rounding in float32: some hundred products a value, each off by at most 2**-24.
    assert distance(run(folded, x), reference(model, x)) < 3e-6


@pytest.mark.parametrize("case", FOLDED)
def test_exact_in_float64(case):
    make, x = FOLDED[case]
    torch.manual_seed(0)
    model = randomized(make()).double()
    folded, _ = bn.fold(model, x.double())
    assert distance(run(folded, x.double()), reference(model, x)) < 1e-14


@pytest.mark.parametrize("case", FOLDED)
def test_the_model_given_stays_as_it_was(case):
    make, x = FOLDED[case]
    model = randomized(make()).train()
    before = copy.deepcopy(model.state_dict())
    modes = [module.training for module in model.modules()]
    given = x.clone()
    folded, changes = bn.fold(model, x)
    assert list(before) == list(model.state_dict())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert modes == [module.training for module in model.modules()]
    assert torch.equal(given, x)
    assert bn.fold(model, x, dry_run=True) == changes
    own = {p.data_ptr() for p in model.parameters()}
    assert own.isdisjoint(p.data_ptr() for p in folded.parameters())


@pytest.mark.parametrize("case", FOLDED)
def test_names_and_shapes_do_not_depend_on_values(case):
    """What one folded network has saved, a fresh one that was folded must load."""
    make, x = FOLDED[case]
    trained, fresh = bn.fold(randomized(make()), x).model, bn.fold(make(), x).model
    fresh.load_state_dict(trained.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(run(fresh, x), run(trained, x), strict=True))
