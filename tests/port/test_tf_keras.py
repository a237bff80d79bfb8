"""Keras 2, where TensorFlow is installed; it is too large to install for these tests alone."""

import numpy as np
import pytest
import torch

from batchnorm import port

from . import rules

pytestmark = pytest.mark.slow

OPTIONS = {"momentum": 0.9, "epsilon": 2e-3}

CASES = [
    pytest.param((12,), -1, False, id="rows"),
    pytest.param((4, 3, 2), -1, True, id="pictures"),
    pytest.param((4, 2, 2, 2), -1, True, id="volumes"),
    pytest.param((4, 3), -1, False, id="sequences"),
]


@pytest.mark.parametrize(("shape", "axis", "is_fused"), CASES)
def test_the_kernel_for_pictures_keeps_the_unbiased_variance(tf_keras, shape, axis, is_fused):
    given = rules.batches(3, shape, axis)
    arrays, fused = tf_keras.train(OPTIONS, given)
    assert fused is is_fused
    *_, n = rules.moments(given[0], axis)
    correction = 1 if fused else 0
    mean, var = rules.moved(np.zeros(3), np.ones(3), given, axis, 0.9, correction)
    state = port.from_tf_keras(arrays, **OPTIONS, fused=fused)
    np.testing.assert_allclose(state.mean, mean, atol=rules.rounding(given, axis).max())
    np.testing.assert_allclose(state.var, var, atol=rules.rounding(given, axis).max())
    # With count, both are what PyTorch would have kept, but for the 1 that they began with.
    rescaled = port.from_tf_keras(arrays, **OPTIONS, fused=fused, count=n)
    factor = 1 if fused else n / (n - 1)
    np.testing.assert_allclose(rescaled.var, var * factor, atol=rules.rounding(given, axis).max())


@pytest.mark.parametrize(("shape", "axis", "is_fused"), CASES)
def test_inference_is_the_same_both_ways(tf_keras, shape, axis, is_fused):
    given = rules.batches(3, shape, axis)
    arrays, _ = tf_keras.train(OPTIONS, given)
    layer = port.from_tf_keras(arrays, **OPTIONS).layer(max(1, len(shape) - 1))
    theirs = tf_keras.infer(arrays, OPTIONS, given[0])
    assert port.check(layer, given[0], theirs) < 1e-5
    back, options = port.to_tf_keras(layer)
    assert options == {**OPTIONS, "axis": -1, "scale": True, "center": True}
    np.testing.assert_array_equal(tf_keras.infer(back, options, given[0]), theirs)
    assert torch.equal(layer.running_mean, torch.from_numpy(back["moving_mean"]))
