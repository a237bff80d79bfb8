"""What docs/others.md says about Flax, Haiku and Equinox, beside what is done here."""

import numpy as np
import pytest
import torch

import batchnorm as bn
from port import apart

pytestmark = pytest.mark.slow

HAIKU = {"create_scale": True, "create_offset": True, "decay_rate": 0.0}


@pytest.fixture
def jax():
    return apart.jax()


def far_off(mean=1e4):
    generator = np.random.default_rng(0)
    return (mean + generator.normal(size=(256, 8))).astype(np.float32)


def ours(x, **arguments):
    return bn.BatchNorm1d(x.shape[1])(torch.from_numpy(x), **arguments)


def test_flax_loses_a_small_variance_beside_a_large_mean(jax):
    x = far_off()
    truth = x.astype(np.float64).var(0)
    variables, theirs = jax.linen_train(None, {"momentum": 0.0}, [x])
    found = variables["batch_stats"]["var"]
    assert (found == 0).any()  # held at 0
    assert np.abs(found / truth - 1).min() > 0.5
    assert theirs.std(0).max() > 100
    # The option that mends it is there.
    careful = {"momentum": 0.0, "use_fast_variance": False}
    variables, theirs = jax.linen_train(None, careful, [x])
    assert variables["batch_stats"]["var"] == pytest.approx(truth, rel=1e-4)
    assert ours(x).std(0).tolist() == pytest.approx([1.002] * 8, abs=1e-3)


def test_haiku_lets_a_variance_be_negative(jax):
    x = far_off()
    _, state, theirs = jax.haiku_train(None, HAIKU, [x])
    assert state["batch_norm/~/var_ema"]["average"].min() < 0
    assert np.isnan(theirs).any()
    assert bool(ours(x).isfinite().all())


def test_flax_averages_masked_means_of_unequal_shards(jax):
    """Two shards: one value of 0 counts as much as four of 5."""
    x = np.float32([[[0], [9], [9], [9], [9]], [[5], [5], [5], [5], [5]]])
    mask = np.array([[True, False, False, False, False], [True, True, True, True, False]])
    theirs = jax.linen_masked_mean(x, mask)
    assert theirs.tolist() == [2.5, 2.5]
    values = torch.from_numpy(x).reshape(10, 1)
    layer = bn.BatchNorm1d(1, momentum=1.0)
    layer(values, mask=torch.from_numpy(mask).reshape(10))
    assert float(layer.running_mean) == 4.0


def test_flax_gives_nan_for_a_batch_that_is_all_masked(jax):
    x, mask = np.ones((1, 4, 1), np.float32), np.zeros((1, 4), bool)
    assert np.isnan(jax.linen_masked_mean(x, mask)).all()
    layer = bn.BatchNorm1d(1)
    layer(torch.ones(4, 1), mask=torch.zeros(4, dtype=torch.bool))
    assert float(layer.running_mean) == 0.0


@pytest.mark.parametrize(("steps", "std"), [(1, 0.1), (10, 0.309), (100, 0.796)])
def test_equinox_divides_a_variance_that_began_at_one(jax, steps, std):
    x = np.random.default_rng(1).normal(size=(64, 1))
    x = ((x - x.mean()) / x.std()).astype(np.float32)
    options = {"input_size": 1, "channelwise_affine": True, "mode": "batch", "eps": 1e-5}
    arrays, _ = jax.equinox_train(None, {**options, "momentum": 0.99}, [x] * steps)
    theirs = jax.equinox_infer(arrays, {**options, "momentum": 0.99}, x)
    # The variance it uses is 1/(1 − dⁿ): that of the data, 1, and dⁿ/(1 − dⁿ) more.
    assert theirs.std() == pytest.approx((1 - 0.99**steps) ** 0.5, rel=1e-3)
    assert theirs.std() == pytest.approx(std, abs=2e-3)
    counter = arrays.pop("counter")
    state = bn.port.from_equinox(arrays, mode="batch", counter=counter, eps=1e-5, momentum=0.99)
    y = state.layer(dims=1).eval()(torch.from_numpy(x)).detach()
    assert float(y.std(correction=0)) == pytest.approx(1.0, abs=1e-3)
