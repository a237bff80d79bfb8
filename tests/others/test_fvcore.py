"""What docs/others.md says about fvcore, beside what is done here."""

import warnings

import pytest
import torch
from torch import nn

import batchnorm as bn


@pytest.fixture(scope="module")
def update_bn_stats():
    pytest.importorskip("fvcore")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it scripts something when it is imported
        from fvcore.nn.precise_bn import update_bn_stats
    return update_bn_stats


def data(mean, std, number=8):
    generator = torch.Generator().manual_seed(0)
    return [mean + std * torch.randn(64, 1, generator=generator) for _ in range(number)]


def measured(recalibrate, batches):
    model = nn.Sequential(nn.BatchNorm1d(1)).train()
    recalibrate(model, batches)
    return float(model[0].running_var)


@pytest.mark.parametrize(("mean", "std"), [(1e4, 1.0), (100.0, 0.01)])
def test_a_small_variance_beside_a_large_mean_is_lost(update_bn_stats, mean, std):
    batches = data(mean, std)
    truth = float(torch.cat(batches).double().var())
    theirs = measured(lambda m, b: update_bn_stats(m, b, num_iters=8, progress=None), batches)
    ours = measured(lambda m, b: bn.recalibrate(m, b, progress=False), batches)
    assert not truth / 2 < theirs < 2 * truth
    assert ours == pytest.approx(truth, rel=1e-5)


def test_data_in_order_are_right(update_bn_stats):
    """Where torch's update_bn leaves out the variance between batches."""
    batches = [batch + k for k, batch in enumerate(data(0.0, 1.0, 10))]
    theirs = measured(lambda m, b: update_bn_stats(m, b, num_iters=10, progress=None), batches)
    assert theirs == pytest.approx(float(torch.cat(batches).var(correction=0)), rel=1e-4)


def test_a_loader_that_ends_early_leaves_the_model_changed(update_bn_stats):
    def model():
        return nn.Sequential(nn.BatchNorm1d(1)).train()

    theirs, ours = model(), model()
    with pytest.raises(AssertionError, match="meant to run for 200 iterations"):
        update_bn_stats(theirs, data(0.0, 1.0), progress=None)
    bn.recalibrate(ours, data(0.0, 1.0), progress=False)
    assert theirs[0].momentum == 1.0
    assert len(theirs[0]._forward_pre_hooks) == 1
    assert ours[0].momentum == 0.1
    assert not ours[0]._forward_pre_hooks


def test_a_layer_in_two_places_is_refused_and_left_changed(update_bn_stats):
    def model():
        shared = nn.BatchNorm1d(1)
        return nn.Sequential(shared, nn.ReLU(), shared).train()

    theirs, ours = model(), model()
    with pytest.raises(AssertionError, match="Some BN layers are reused"):
        update_bn_stats(theirs, data(0.0, 1.0), num_iters=8, progress=None)
    assert theirs[0].momentum == 1.0
    batches = data(0.0, 1.0)
    bn.recalibrate(ours, batches, progress=False)
    assert ours[0].momentum == 0.1
    # Both calls together: normalized by the batch, then a ReLU, at the second place.
    second = [((b - b.mean()) / (b.var(correction=0) + 1e-5).sqrt()).relu() for b in batches]
    every = torch.cat([*batches, *second])
    assert float(ours[0].running_var) == pytest.approx(float(every.var()), rel=0.02)
