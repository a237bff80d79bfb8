"""What docs/others.md says about PyTorch's own tools, beside what is done here."""

import copy
import math
import warnings

import pytest
import torch
from torch import distributed as dist
from torch import nn
from torch.optim.swa_utils import update_bn
from torch.utils.checkpoint import checkpoint

import batchnorm as bn

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # it scripts something when it is imported
    from torch.fx.experimental.optimization import fuse


class Twice(nn.Module):
    """A convolution called twice, with another normalization behind each call."""

    def __init__(self, second=True):
        super().__init__()
        self.conv, self.a = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)
        self.b = nn.BatchNorm2d(3) if second else nn.Identity()

    def forward(self, x):
        return self.a(self.conv(x)) + self.b(self.conv(2 * x))


class Pair(nn.Module):
    """A convolution and its normalization, both called twice."""

    def __init__(self):
        super().__init__()
        self.conv, self.a = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

    def forward(self, x):
        return self.a(self.conv(self.a(self.conv(x))))


def trained(model):
    """Give batch normalization statistics and an affine transformation that matter."""
    for layer in model.modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            layer.running_mean.normal_()
            layer.running_var.uniform_(0.5, 2)
            nn.init.normal_(layer.weight, 1.0)
            nn.init.normal_(layer.bias)
    return model.eval()


CALLED_TWICE = {
    "two normalizations": (Twice, (4, 3, 5, 5)),
    "one path": (lambda: Twice(second=False), (4, 3, 5, 5)),
    "the pair": (Pair, (4, 3, 5, 5)),
    "rows of rows": (lambda: nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6)), (4, 6, 6)),
}


@pytest.mark.parametrize("name", CALLED_TWICE)
def test_fx_fuse_is_wrong_for_what_is_called_twice(name):
    torch.manual_seed(0)
    make, shape = CALLED_TWICE[name]
    model, x = trained(make()), torch.randn(shape)
    expected = model(x)
    theirs = fuse(copy.deepcopy(model))(x)
    ours, _ = bn.fold(model, x)
    assert (theirs - expected).abs().max() > 0.2 * expected.std()
    torch.testing.assert_close(ours(x), expected, atol=1e-5, rtol=1e-5)


def ordered():
    """Ten batches, each with a mean of its own."""
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(32, 1, generator=generator) + k for k in range(10)]


def test_update_bn_gives_every_batch_the_same_weight():
    generator = torch.Generator().manual_seed(0)
    batches = [torch.randn(256, 1, generator=generator) for _ in range(4)]
    batches.append(20 + torch.randn(2, 1, generator=generator))
    every = torch.cat(batches)
    theirs, ours = nn.BatchNorm1d(1), nn.BatchNorm1d(1)
    update_bn(batches, theirs)
    bn.recalibrate(ours, batches, progress=False)
    of_means = sum(float(batch.mean()) for batch in batches) / 5
    assert float(theirs.running_mean) == pytest.approx(of_means, rel=1e-5)
    assert of_means > 3.8
    assert float(every.mean()) < 0.1
    assert float(ours.running_mean) == pytest.approx(float(every.mean()), abs=1e-6)


def test_update_bn_leaves_out_the_variance_between_batches():
    batches, theirs, ours = ordered(), nn.BatchNorm1d(1), nn.BatchNorm1d(1)
    update_bn(batches, theirs)
    bn.recalibrate(ours, batches, progress=False)
    truth = float(torch.cat(batches).var())
    within = sum(float(batch.var()) for batch in batches) / len(batches)
    assert float(theirs.running_var) == pytest.approx(within, rel=1e-5)
    assert truth > 8 > 1 > within
    assert float(ours.running_var) == pytest.approx(truth, rel=1e-6)


def test_update_bn_moves_layers_in_evaluation_mode():
    def frozen():
        model = nn.Sequential(nn.BatchNorm1d(1))
        model[0].running_mean.fill_(7.0)
        return model

    theirs, ours = frozen(), frozen()
    theirs[0].eval()
    bn.freeze(ours)
    update_bn(ordered(), theirs)
    bn.recalibrate(ours, ordered(), progress=False)
    assert float(theirs[0].running_mean) == pytest.approx(float(torch.cat(ordered()).mean()))
    assert float(ours[0].running_mean) == 7.0


def test_update_bn_leaves_the_model_changed_when_the_loader_fails():
    def failing():
        yield ordered()[0]
        raise RuntimeError("disk")

    theirs, ours = nn.BatchNorm1d(1).eval(), nn.BatchNorm1d(1).eval()
    for recalibrate, layer in ((update_bn, theirs), (bn.recalibrate, ours)):
        arguments = (failing(), layer) if layer is theirs else (layer, failing())
        with pytest.raises(RuntimeError, match="disk"):
            recalibrate(*arguments)
    assert (theirs.momentum, theirs.training) == (None, True)
    assert float(theirs.running_mean) == pytest.approx(float(ordered()[0].mean()), abs=1e-6)
    assert (ours.momentum, ours.training) == (0.1, False)
    assert float(ours.running_mean) == 0.0


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_checkpointing_updates_twice(use_reentrant):
    x = torch.randn(8, 2, generator=torch.Generator().manual_seed(0))
    found = []
    for layer in (nn.BatchNorm1d(2), bn.BatchNorm1d(2)):
        leaf = x.clone().requires_grad_()
        checkpoint(layer, leaf, use_reentrant=use_reentrant).sum().backward()
        found.append((int(layer.num_batches_tracked), layer.running_mean))
    (theirs, their_mean), (ours, our_mean) = found
    assert (theirs, ours) == (2, 1)
    torch.testing.assert_close(their_mean, 0.19 * x.mean(0))  # 0.1 + 0.9·0.1
    torch.testing.assert_close(our_mean, 0.1 * x.mean(0))


def test_a_large_mean_is_no_problem():
    x = 1e4 + torch.randn(256, 1, generator=torch.Generator().manual_seed(0))
    truth = float(x.double().var(correction=0))
    for layer in (nn.BatchNorm1d(1, momentum=1.0), bn.BatchNorm1d(1, momentum=1.0)):
        assert float(layer(x).detach().var(correction=0)) == pytest.approx(1.0, rel=1e-3)
        assert float(layer.running_var) == pytest.approx(truth * 256 / 255, rel=1e-4)


def test_one_nan_stays_for_ever():
    generator = torch.Generator().manual_seed(0)
    batches = [torch.randn(8, 2, generator=generator) for _ in range(50)]
    batches[3][0, 0] = torch.nan
    theirs, ours = nn.BatchNorm1d(2), bn.BatchNorm1d(2)
    for batch in batches:
        theirs(batch)
        ours(batch)
    assert theirs.running_mean.isnan().tolist() == [True, False]
    assert ours.running_mean.isfinite().all()
    assert ours.num_nonfinite.tolist() == [1, 0]
    expected = 0.0
    for number, batch in enumerate(batches):
        if number != 3:
            expected = 0.9 * expected + 0.1 * float(batch[:, 0].mean())
    assert float(ours.running_mean[0]) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(("momentum", "stops_at"), [(0.1, 0.984375), (0.01, 0.8359375)])
def test_bfloat16_statistics_stop_short(momentum, stops_at):
    """Mean 1, variance 4, however many steps."""
    x = (1 + 2 * torch.linspace(-math.sqrt(3), math.sqrt(3), 257)).unsqueeze(1).bfloat16()
    layers = [cls(1, momentum=momentum).bfloat16() for cls in (nn.BatchNorm1d, bn.BatchNorm1d)]
    for _ in range(int(20 / momentum)):
        for layer in layers:
            layer(x)
    theirs, ours = layers
    assert float(theirs.running_mean) == stops_at
    before = theirs.running_mean.clone()
    theirs(x)
    assert torch.equal(theirs.running_mean, before)
    assert float(ours.running_mean) == pytest.approx(float(x.float().mean()), abs=1e-5)
    assert float(ours.running_var) == pytest.approx(float(x.float().var()), rel=1e-5)


@pytest.mark.skipif(not (dist.is_available() and dist.is_gloo_available()), reason="needs gloo")
def test_sync_batch_norm_refuses_the_cpu(tmp_path):
    x = torch.randn(4, 2)
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/meeting", rank=0, world_size=1)
    try:
        with pytest.raises(ValueError, match="SyncBatchNorm expected input tensor to be on"):
            nn.SyncBatchNorm(2)(x)
        y = bn.BatchNorm1d(2, sync=True)(x)
    finally:
        dist.destroy_process_group()
    torch.testing.assert_close(y, nn.BatchNorm1d(2)(x))


class WithActivation(nn.BatchNorm2d):
    """As timm has it: a subclass whose forward does more."""

    def forward(self, input):
        return super().forward(input).relu()


def test_convert_sync_batchnorm_drops_what_a_subclass_does():
    x = -torch.ones(1, 3, 2, 2)
    theirs = nn.SyncBatchNorm.convert_sync_batchnorm(nn.Sequential(WithActivation(3)).eval())
    ours, _ = bn.convert(nn.Sequential(WithActivation(3)).eval(), x, to="sync")
    assert float(theirs(x).detach().min()) < -0.99
    assert float(ours(x).detach().min()) == 0.0


def test_convert_sync_batchnorm_splits_shared_layers():
    shared = nn.BatchNorm1d(2)
    theirs = nn.SyncBatchNorm.convert_sync_batchnorm(nn.Sequential(shared, nn.ReLU(), shared))
    ours, _ = bn.convert(nn.Sequential(shared, nn.ReLU(), shared), to="sync")
    assert theirs[0] is not theirs[2]
    assert ours[0] is ours[2]
