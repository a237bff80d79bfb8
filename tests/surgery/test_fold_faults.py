"""Where PyTorch's own tools fold wrongly, or give up; each is shown to, beside what `fold` does."""

import warnings

import pytest
import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

import batchnorm as bn

from .nets import OneInput, distance, norms, randomized, reference, run
from .test_fold import images

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # it uses torch.jit
    from torch.fx.experimental import optimization

X = images(2, 3, 8, 8)


def conv_for_two_norms():
    return OneInput(
        lambda m, x: m.a(m.conv(x)) + m.b(m.conv(x)),
        conv=nn.Conv2d(3, 3, 3),
        a=nn.BatchNorm2d(3),
        b=nn.BatchNorm2d(3),
    )


def conv_with_a_norm_on_one_way():
    return OneInput(
        lambda m, x: m.norm(m.conv(x)) + m.conv(x * 2),
        conv=nn.Conv2d(3, 3, 3),
        norm=nn.BatchNorm2d(3),
    )


def pair_twice():
    return OneInput(
        lambda m, x: m.norm(m.conv(m.norm(m.conv(x)))),
        conv=nn.Conv2d(3, 3, 3),
        norm=nn.BatchNorm2d(3),
    )


def positions_for_features():
    return nn.Sequential(nn.Linear(5, 5), nn.BatchNorm1d(5))


SILENTLY_WRONG = {
    "conv for two norms": (conv_for_two_norms, X, 2),
    "conv with a norm on one way": (conv_with_a_norm_on_one_way, X, 1),
    "the pair twice": (pair_twice, X, 0),
    "linear on (N, L, F)": (positions_for_features, images(2, 5, 5), 1),
}


@pytest.mark.parametrize("case", SILENTLY_WRONG)
def test_where_fx_is_silently_wrong(case):
    make, x, num_left = SILENTLY_WRONG[case]
    torch.manual_seed(0)
    model = randomized(make()).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = optimization.fuse(model)
    assert distance(run(theirs, x), reference(model, x)) > 0.1
    folded, changes = bn.fold(model, x)
    assert len(norms(folded)) == num_left == len([c for c in changes if "leave" in c.action])
    assert distance(run(folded, x), reference(model, x)) < 3e-6


def test_linear_without_affine():
    linear, norm = nn.Linear(5, 4), nn.BatchNorm1d(4, affine=False)
    model = randomized(nn.Sequential(linear, norm)).eval()
    with pytest.raises((AttributeError, TypeError)):
        fuse_linear_bn_eval(linear, norm)
    folded, _ = bn.fold(model, images(3, 5))
    assert not norms(folded)


def test_transposed_convolution_in_groups():
    up, norm = nn.ConvTranspose2d(4, 6, 2, groups=2), nn.BatchNorm2d(6)
    model = randomized(nn.Sequential(up, norm)).eval()
    with pytest.raises(RuntimeError):
        fuse_conv_bn_eval(up, norm, transpose=True)
    folded, _ = bn.fold(model, images(2, 4, 3, 3))
    assert not norms(folded)


def test_hooks_are_not_dropped():
    model = randomized(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))).eval()
    seen = []
    model[1].register_forward_hook(lambda module, args, output: seen.append(output))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        optimization.fuse(model)(X)
    assert not seen
    folded, _ = bn.fold(model, X)
    seen.clear()
    folded.eval()(X)
    assert torch.equal(seen[0], model(X)) and len(seen) == 2


@pytest.mark.parametrize("norm", [nn.SyncBatchNorm, bn.BatchNorm2d], ids=["sync", "ours"])
def test_classes_that_fx_does_not_know(norm):
    model = randomized(nn.Sequential(nn.Conv2d(3, 4, 3), norm(4), nn.ReLU())).eval()
    folded, _ = bn.fold(model, X)
    assert not norms(folded)


def branching(m, x):
    y = m.conv(x)
    return m.norm(y) if y.shape[1] == 3 and len(x) < 99 else y


def test_models_that_fx_does_not_trace():
    model = OneInput(branching, conv=nn.Conv2d(3, 3, 3), norm=nn.BatchNorm2d(3))
    with pytest.raises(torch.fx.proxy.TraceError):
        torch.fx.symbolic_trace(model)
    folded, _ = bn.fold(randomized(model), X)
    assert not norms(folded)
