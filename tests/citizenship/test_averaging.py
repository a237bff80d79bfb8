"""Tools of torch that walk over a model: weight averaging, synchronization, parametrization."""

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, update_bn

import batchnorm as bn

from .cases import (
    TORCH,
    assert_close,
    assert_identical,
    batch,
    each_class,
    each_option,
    layer,
    pair,
    state,
    without_count,
)


def networks(**options):
    """The same network with our layer and with torch's."""
    made = []
    for norm in pair(**options):
        torch.manual_seed(0)
        made.append(nn.Sequential(nn.Conv2d(4, 4, 2), norm, nn.Tanh()))
    return made


@pytest.mark.parametrize("options", [{}, {"momentum": None}, {"affine": False}], ids=str)
def test_update_bn_gives_torchs_statistics(options):
    ours, its = networks(**options)
    for model in (ours, its):
        model(batch(seed=9))
        update_bn([batch(seed=seed) for seed in range(4)], model.eval())
    assert_close(without_count(state(ours)), state(its))
    assert ours[1].momentum == its[1].momentum
    assert ours[1].num_batches_tracked == 4
    assert not ours.training


def test_update_bn_leaves_out_non_finite_batches():
    ours, its = networks()
    batches = [batch(seed=seed) for seed in range(4)]
    broken = torch.full_like(batches[0], torch.nan)
    update_bn([*batches[:2], broken, *batches[2:]], ours)
    update_bn(batches, its)
    torch.testing.assert_close(ours[1].running_mean, its[1].running_mean)
    torch.testing.assert_close(ours[1].running_var, its[1].running_var)
    assert ours[1].num_nonfinite.tolist() == [1, 1, 1, 1]


AVERAGES = {
    "mean": {},
    "mean with buffers": {"use_buffers": True},
    "exponential": {"multi_avg_fn": get_ema_multi_avg_fn(0.9)},
    "exponential with buffers": {"multi_avg_fn": get_ema_multi_avg_fn(0.9), "use_buffers": True},
}


@pytest.mark.parametrize("average", AVERAGES)
def test_averaged_model_is_torchs(average):
    averaged = []
    for model in networks():
        mean = AveragedModel(model, **AVERAGES[average])
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for seed in range(4):
            model(batch(seed=seed)).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
            mean.update_parameters(model)
        averaged.append(mean)
    assert type(averaged[0].module[1]) is bn.BatchNorm2d
    assert_close(without_count(state(averaged[0])), state(averaged[1]), rtol=1e-4, atol=1e-5)
    outputs = [mean.eval()(batch(seed=9)) for mean in averaged]
    torch.testing.assert_close(*outputs, rtol=1e-4, atol=1e-5)


@each_option
def test_averaged_model_with_every_option(options):
    model = nn.Sequential(layer(options=options))
    mean = AveragedModel(model, use_buffers=True)
    for seed in range(3):
        model(batch(seed=seed))
        mean.update_parameters(model)
    assert repr(mean.module) == repr(model)
    assert torch.isfinite(mean.eval()(batch(seed=9))).all()


@each_class
def test_convert_sync_batchnorm_takes_over_the_plain_layer(cls):
    ours, its = pair(cls)
    ours(batch(cls)), its(batch(cls))
    ours.weight.requires_grad_(False), its.weight.requires_grad_(False)
    found, expected = (nn.SyncBatchNorm.convert_sync_batchnorm(made) for made in (ours, its))
    assert type(found) is nn.SyncBatchNorm
    assert_close(state(found), state(expected))
    assert found.weight.requires_grad is expected.weight.requires_grad is False
    assert (found.eps, found.momentum) == (expected.eps, expected.momentum)
    x = batch(cls, seed=1)
    torch.testing.assert_close(found.eval()(x), its.eval()(x))


@pytest.mark.parametrize("transpose", [False, True], ids=["conv", "transposed conv"])
def test_fuse_conv_bn_eval_takes_the_plain_layer(transpose):
    torch.manual_seed(0)
    conv = nn.ConvTranspose2d(4, 4, 2) if transpose else nn.Conv2d(4, 4, 2)
    ours = layer().eval()
    ours(batch())
    fused = fuse_conv_bn_eval(conv.eval(), ours, transpose)
    torch.testing.assert_close(fused(batch()), ours(conv(batch())), rtol=1e-4, atol=1e-5)


def test_fuse_linear_bn_eval_takes_the_plain_layer():
    torch.manual_seed(0)
    linear, ours = nn.Linear(24, 4), layer(bn.BatchNorm1d).eval()
    x = batch().flatten(1)
    fused = fuse_linear_bn_eval(linear.eval(), ours)
    torch.testing.assert_close(fused(x), ours(linear(x)), rtol=1e-4, atol=1e-5)


@each_class
def test_parametrized_weight(cls):
    class Softplus(nn.Module):
        def forward(self, weight):
            return nn.functional.softplus(weight)

    ours, its = pair(cls)
    outputs, grads = [], []
    for made in (ours, its):
        parametrize.register_parametrization(made, "weight", Softplus())
        y = made(batch(cls))
        outputs.append(y)
        grads.append(torch.autograd.grad(y.square().sum(), made.parametrizations.weight.original))
    torch.testing.assert_close(*outputs)
    torch.testing.assert_close(*grads, rtol=1e-4, atol=1e-4)
    assert_close(without_count(state(ours)), state(its))


@each_class
def test_hooks_see_what_torchs_see(cls):
    seen = []
    for made in pair(cls):
        made.register_forward_pre_hook(lambda module, args: (args[0] * 2,))
        made.register_forward_hook(lambda module, args, output: output + 1)
        made.register_full_backward_hook(lambda module, grads, outputs: (grads[0] * 3,))
        x = batch(cls).requires_grad_()
        y = made(x)
        y.square().sum().backward()
        seen.append((y.detach(), x.grad, made.running_var))
    for mine, other in zip(*seen, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-4)


@each_class
def test_isinstance_and_replacement_by_type(cls):
    """Model surgery of others asks for torch's classes."""
    model = nn.Sequential(cls(4), nn.Sequential(cls(4)))
    kinds = [type(made) for made in model.modules() if isinstance(made, TORCH[cls])]
    assert kinds == [cls, cls]


def test_optimizer_groups_by_torchs_class():
    model = networks()[0]
    no_decay = [p for m in model.modules() if isinstance(m, nn.BatchNorm2d) for p in m.parameters()]
    assert len(no_decay) == 2
    assert no_decay[0] is model[1].weight


def test_freezing_by_eval_and_requires_grad():
    model, its = networks()
    for each in (model, its):
        each.train()
        each[1].eval()
        each[1].requires_grad_(False)
    before = state(model[1])
    torch.testing.assert_close(model(batch()), its(batch()))
    assert_identical(state(model[1]), before)


@pytest.mark.parametrize("block", [bn.accumulate, bn.no_update])
@pytest.mark.parametrize("way", [copy.deepcopy, lambda made: pickle.loads(pickle.dumps(made))])
def test_copy_made_inside_a_block_is_not_in_it(block, way):
    made, expected = layer(), layer()
    with block(made):
        made(batch())
        other = way(made)
    other(batch(seed=1)), expected(batch(seed=1))
    assert_identical(state(other), state(expected))
