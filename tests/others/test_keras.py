"""What docs/others.md says about Keras 3 on PyTorch, beside what is done here."""

import numpy as np
import pytest
import torch

import batchnorm as bn
from port import apart

pytestmark = pytest.mark.slow


@pytest.fixture
def keras():
    return apart.keras()


def far_off(mean, std=1.0):
    generator = np.random.default_rng(0)
    return (mean + std * generator.normal(size=(256, 8))).astype(np.float32)


def test_a_large_mean_spoils_the_variance(keras):
    x = far_off(1e4)
    arrays, theirs = keras.train(None, {"momentum": 0.0}, [x])
    truth = x.astype(np.float64).var(0)
    assert (arrays["moving_variance"] < 0).any()  # E[x²] − E[x]², and nothing holds it at 0
    assert np.isnan(theirs).any()
    ours = bn.BatchNorm1d(8, momentum=1.0)
    y = ours(torch.from_numpy(x))
    assert y.std(0).tolist() == pytest.approx([1.002] * 8, abs=1e-3)
    assert ours.running_var.tolist() == pytest.approx(list(truth * 256 / 255), rel=1e-5)


def test_an_empty_batch_leaves_nan(keras):
    x = np.zeros((0, 2), np.float32)
    arrays, _ = keras.train(None, {}, [x])
    assert np.isnan(arrays["moving_mean"]).all()
    ours = bn.BatchNorm1d(2)
    ours(torch.from_numpy(x))
    assert ours.running_mean.tolist() == [0.0, 0.0]
    assert int(ours.num_batches_tracked) == 0


@pytest.mark.parametrize(
    ("options", "shape", "error"),
    [({}, (4, 5, 1), "IndexError"), ({"axis": 1}, (4, 3, 5), "RuntimeError")],
    ids=["one channel", "channels first"],
)
def test_a_mask_fails(keras, options, shape, error):
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    mask = np.ones((4, 5), bool)
    assert keras.masked(options, x, mask).startswith(error)
    given = torch.from_numpy(np.moveaxis(x, options.get("axis", -1), 1).copy())
    masked = bn.BatchNorm1d(given.shape[1])(given, mask=torch.from_numpy(mask))
    torch.testing.assert_close(masked, bn.BatchNorm1d(given.shape[1])(given))
