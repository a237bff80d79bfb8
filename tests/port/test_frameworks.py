"""The same layer here and in the real frameworks: in inference, and after further training."""

import numpy as np
import pytest
import torch

import batchnorm as bn
from batchnorm import port

from . import apart, rules
from .frameworks import BATCH_MODE, BIAS, DECAY, EPS, FRAMEWORKS, WEIGHT

pytestmark = pytest.mark.slow

FIRST, MORE = 3, 4
"""Batches before the port, and after it."""

every = pytest.mark.parametrize("framework", FRAMEWORKS, ids=repr)


def data(framework, number=FIRST, seed=0):
    return rules.batches(number, framework.shape, framework.axis, seed)


def channels_first(x, framework):
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(x, framework.axis, 1)))


def output_near(y, expected):
    """Outputs are of size 10 at most, with a few roundings each."""
    np.testing.assert_allclose(y, expected, rtol=0, atol=64 * rules.EPS32)


def trained_here(framework, momentum=0.1):
    """A layer of ours that has seen some batches."""
    layer = (bn.BatchNorm1d, bn.BatchNorm2d)[framework.dims - 1](3, eps=EPS, momentum=momentum)
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(WEIGHT))
        layer.bias.copy_(torch.from_numpy(BIAS))
        for x in data(framework, seed=5):
            layer(channels_first(x, framework))
    return layer


@every
def test_inference_is_the_same_here(framework):
    arrays, options = framework.train(None, None, data(framework))
    (x,) = data(framework, 1, seed=1)
    theirs = framework.infer(arrays, options, x)
    layer = framework.read(arrays, options).layer(framework.dims).eval()
    ours = layer(channels_first(x, framework)).detach().numpy()
    output_near(np.moveaxis(ours, 1, framework.axis), theirs)
    assert port.check(layer, x, theirs, axis=framework.axis) < 1e-5
    # Not only alike: by the formula, with nothing left at its default.
    mean, var = framework.statistics(arrays)
    expected = rules.normalized(x, framework.axis, mean, var, WEIGHT, BIAS, EPS)
    output_near(theirs, expected)


@every
def test_inference_is_the_same_there(framework):
    layer = trained_here(framework)
    arrays, options = framework.write(layer)
    (x,) = data(framework, 1, seed=1)
    theirs = framework.infer(arrays, options, x)
    ours = layer.eval()(channels_first(x, framework)).detach().numpy()
    output_near(np.moveaxis(ours, 1, framework.axis), theirs)


@every
def test_further_training_differs_by_the_correction_alone(framework):
    arrays, options = framework.train(None, None, data(framework))
    layer = framework.read(arrays, options).layer(framework.dims)
    start = framework.statistics(arrays)
    further, axis = data(framework, MORE, seed=2), framework.axis
    with torch.no_grad():
        for x in further:
            layer(channels_first(x, framework))
    arrays, _ = framework.train(arrays, options, further)
    theirs = framework.statistics(arrays)
    ours = layer.running_mean.numpy(), layer.running_var.numpy()
    tolerance = rules.rounding(further, axis)
    # Haiku's averages divide by 1 − d**n, so a batch counts more while n is small.
    if framework.name != "haiku":
        assert_within(theirs[0], ours[0], tolerance)
        biased = rules.moved(*start, further, axis, DECAY, correction=0)
        assert_within(theirs[1], biased[1], tolerance)
        unbiased = rules.moved(*start, further, axis, DECAY, correction=1)
        assert_within(ours[1], unbiased[1], tolerance)
        predicted = unbiased[1] - biased[1]
        assert (predicted > 8 * tolerance).all()  # so that the two can be told apart
        assert_within(ours[1] - theirs[1], predicted, 2 * tolerance)
        return
    n = np.arange(FIRST + 1, FIRST + MORE + 1)
    mean, var = start
    for k, x in zip(n, further, strict=True):
        batch = rules.moments(x, axis)
        share = (1 - DECAY) / (1 - DECAY**k)
        mean, var = mean + share * (batch[0] - mean), var + share * (batch[1] - var)
    assert_within(theirs[0], mean, 4 * tolerance)
    assert_within(theirs[1], var, 4 * tolerance)
    assert_within(ours[1], rules.moved(*start, further, axis, DECAY, 1)[1], tolerance)


@every
def test_with_count_the_variance_goes_on_as_here(framework):
    """Rescaled once by n/(n−1), it stays n/(n−1) times theirs."""
    given = data(framework)
    arrays, options = framework.train(None, None, given)
    *_, n = rules.moments(given[0], framework.axis)
    state = framework.read(arrays, options, count=n)
    start = framework.statistics(arrays)[1].astype(np.float64) * n / (n - 1)
    assert_within(state.var.numpy(), start, rules.EPS32 * start)
    if framework.name == "haiku":
        return
    layer = state.layer(framework.dims)
    further = data(framework, MORE, seed=2)
    with torch.no_grad():
        for x in further:
            layer(channels_first(x, framework))
    arrays, _ = framework.train(arrays, options, further)
    theirs = framework.statistics(arrays)[1] * (n / (n - 1))
    assert_within(layer.running_var.numpy(), theirs, 2 * rules.rounding(further, framework.axis))


@every
def test_training_goes_on_there_with_the_weight_it_had_here(framework):
    """Also where averages are divided by 1 − d**n: nothing that is ported is overwritten."""
    layer = trained_here(framework)
    arrays, options = framework.write(layer)
    start = layer.running_mean.numpy().copy(), layer.running_var.numpy().copy()
    further = data(framework, MORE, seed=2)
    arrays, _ = framework.train(arrays, options, further)
    theirs = framework.statistics(arrays)
    expected = rules.moved(*start, further, framework.axis, DECAY, correction=0)
    tolerance = rules.rounding(further, framework.axis)
    for found, wanted in zip(theirs, expected, strict=True):
        assert_within(found, wanted, 2 * tolerance)


@every
def test_there_and_back_is_the_same_bit_for_bit(framework):
    layer = trained_here(framework)
    state = framework.read(*framework.write(layer))
    for key in ("weight", "bias", "running_mean", "running_var"):
        assert torch.equal(getattr(state.layer(framework.dims), key), getattr(layer, key)), key
    assert (state.eps, state.momentum) == (layer.eps, layer.momentum)


@every
def test_what_the_framework_trained_comes_back_bit_for_bit(framework):
    arrays, options = framework.train(None, None, data(framework))
    back, told = framework.write(framework.read(arrays, options).layer(framework.dims))
    for found, wanted in zip(framework.statistics(back), framework.statistics(arrays), strict=True):
        np.testing.assert_array_equal(found, wanted)
    for name, value in framework.options.items():
        assert told[name] == value, name


def assert_within(found, expected, tolerance):
    off = np.abs(np.asarray(found, np.float64) - expected)
    assert (off <= tolerance).all(), f"off by {off}, allowed {tolerance}"


class TestBatchModeOfEquinox:
    """Its variance begins at 1 and is divided as if it had begun at 0."""

    def trained(self, steps):
        given = data(BATCH_MODE, steps)
        arrays, options = BATCH_MODE.train(None, None, given)
        return given, arrays, options

    @pytest.mark.parametrize("steps", [1, 3, 20])
    def test_what_the_division_leaves_is_taken_out(self, steps):
        given, arrays, options = self.trained(steps)
        state = BATCH_MODE.read(arrays, options)
        left = DECAY**steps
        # The average with weights (1 − d) d**k / (1 − d**n), written out.
        weights = [(1 - DECAY) * DECAY**k / (1 - left) for k in reversed(range(steps))]
        moments = [rules.moments(x, BATCH_MODE.axis) for x in given]
        mean = sum(w * m[0] for w, m in zip(weights, moments, strict=True))
        var = sum(w * m[1] for w, m in zip(weights, moments, strict=True))
        tolerance = rules.rounding(given, BATCH_MODE.axis) / (1 - left)
        assert_within(state.mean.numpy(), mean, tolerance)
        assert_within(state.var.numpy(), var, tolerance)
        assert state.updates == steps
        used = BATCH_MODE.read(arrays, options, as_used=True)
        assert_within(used.var.numpy(), var + left / (1 - left), tolerance)

    @pytest.mark.parametrize("steps", [1, 20])
    def test_as_used_gives_the_outputs_of_equinox(self, steps):
        _, arrays, options = self.trained(steps)
        (x,) = data(BATCH_MODE, 1, seed=1)
        theirs = BATCH_MODE.infer(arrays, options, x)
        used = BATCH_MODE.read(arrays, options, as_used=True).layer(2).eval()
        output_near(used(torch.from_numpy(x)).detach().numpy(), theirs)

    def test_inference_there_is_right_after_a_port(self):
        layer = trained_here(BATCH_MODE)
        arrays, options = BATCH_MODE.write(layer)
        (x,) = data(BATCH_MODE, 1, seed=1)
        theirs = BATCH_MODE.infer(arrays, options, x)
        output_near(layer.eval()(torch.from_numpy(x)).detach().numpy(), theirs)

    def test_training_goes_on_there(self):
        layer = trained_here(BATCH_MODE)
        arrays, options = BATCH_MODE.write(layer)
        start = layer.running_mean.numpy(), layer.running_var.numpy()
        further = data(BATCH_MODE, MORE, seed=2)
        arrays, _ = BATCH_MODE.train(arrays, options, further)
        expected = rules.moved(*start, further, BATCH_MODE.axis, DECAY, correction=0)
        tolerance = rules.rounding(further, BATCH_MODE.axis)
        for found, wanted in zip(BATCH_MODE.statistics(arrays), expected, strict=True):
            assert_within(found, wanted, tolerance)

    def test_there_and_back_is_the_same_bit_for_bit(self):
        layer = trained_here(BATCH_MODE)
        with torch.no_grad():
            layer.running_var[0] = 1e-30  # far below the 1 that the variance begins with
            layer.running_var[1] = 0.0
        back = BATCH_MODE.read(*BATCH_MODE.write(layer)).layer(2)
        assert torch.equal(back.running_var, layer.running_var)
        assert torch.equal(back.running_mean, layer.running_mean)


class TestKeras:
    def test_renorm_keeps_a_variance_that_can_be_taken(self):
        given = rules.batches(3, (12,), -1)
        options = {"momentum": DECAY, "epsilon": EPS}
        arrays, _ = apart.keras().train(None, {**options, "renorm": True}, given)
        assert list(arrays)[4:] == ["moving_stddev", "renorm_mean", "renorm_stddev"]
        state = port.from_keras(arrays, **options)
        (x,) = rules.batches(1, (12,), -1, seed=1)
        theirs = apart.keras().infer(arrays, {**options, "renorm": True}, x)
        output_near(state.layer(1).eval()(torch.from_numpy(x)).detach().numpy(), theirs)
        in_order = port.from_keras(list(arrays.values()), **options)
        assert torch.equal(in_order.var, state.var)

    @pytest.mark.parametrize("scale", [True, False])
    @pytest.mark.parametrize("center", [True, False])
    def test_without_gamma_or_beta(self, scale, center):
        options = {"scale": scale, "center": center, "epsilon": EPS, "momentum": DECAY}
        given = rules.batches(2, (12,), -1)
        arrays, _ = apart.keras().train(None, options, given)
        if center:
            arrays["beta"] = BIAS
        layer = port.from_keras(list(arrays.values()), **options).layer(1)
        (x,) = rules.batches(1, (12,), -1, seed=1)
        theirs = apart.keras().infer(arrays, options, x)
        output_near(layer.eval()(torch.from_numpy(x)).detach().numpy(), theirs)
        back, told = port.to_keras(layer)
        assert list(back) == list(arrays)
        assert {k: told[k] for k in options} == options
        assert sum(p.requires_grad for p in layer.parameters()) == scale + center

    def test_channels_first(self):
        given = rules.batches(2, (4, 3, 2), 1)
        options = {"axis": 1, "epsilon": EPS, "momentum": DECAY}
        arrays, _ = apart.keras().train(None, options, given)
        layer = port.from_keras(arrays, **options).layer(2)
        theirs = apart.keras().infer(arrays, options, given[0])
        assert port.check(layer, given[0], theirs, axis=1) < 1e-5

    def test_mixed_precision_keeps_float32(self):
        given = rules.batches(2, (12,), -1)
        options = {"epsilon": EPS, "momentum": DECAY}
        arrays, _ = apart.keras().train(None, options, given)
        theirs = apart.keras().infer(arrays, options, given[0], dtype="mixed_float16")
        assert theirs.dtype == np.float16
        layer = port.from_keras(arrays, **options).layer(1)
        assert layer.weight.dtype == torch.float32
        assert port.check(layer, given[0], theirs) < 8e-3


class TestFlax:
    def test_networks_are_split(self):
        x = rules.batches(1, (12,), -1)[0]
        linen, nnx = apart.jax().flax_networks(x)
        found = port.split_flax(linen)
        assert {k: sorted(v) for k, v in found.items()} == {
            "first": ["bias", "mean", "var"],
            "inner/BatchNorm_0": ["bias", "mean", "scale", "var"],
        }
        assert {k: sorted(v) for k, v in port.split_flax(nnx).items()} == {
            "norm": ["bias", "mean", "scale", "var"]
        }

    def test_arrays_in_bfloat16_keep_their_bits(self):
        values = np.array([1.0, 0.1, -3.14159], np.float32)
        weight = apart.jax().bfloat16(values)
        assert weight.dtype.name == "bfloat16"
        arrays = {"scale": weight, "bias": weight, "mean": values, "var": np.abs(values)}
        state = port.from_flax(arrays, epsilon=EPS, momentum=DECAY)
        assert torch.equal(state.weight, torch.from_numpy(values).bfloat16())
        layer = state.layer(1)
        assert layer.weight.dtype == torch.bfloat16
        assert torch.equal(layer.running_mean, torch.from_numpy(values))


class TestHaiku:
    def test_parts_that_are_not_there(self):
        options = {"create_scale": False, "create_offset": False, "decay_rate": DECAY, "eps": EPS}
        given = rules.batches(2, (4, 3, 2), -1)
        params, state, _ = apart.jax().haiku_train(None, options, given)
        assert params == {}
        (arrays,) = port.split_haiku(params, state).values()
        layer = port.from_haiku(**arrays, **options).layer(2)
        assert layer.weight is None
        theirs = apart.jax().haiku_infer(arrays, options, given[0])
        assert port.check(layer, given[0], theirs) < 1e-5

    @pytest.mark.parametrize("decay", [0.5, 0.9, 0.99, 0.999])
    def test_the_three_arrays_of_an_average_belong_together(self, decay):
        options = {"create_scale": True, "create_offset": True, "decay_rate": decay, "eps": EPS}
        params, state, _ = apart.jax().haiku_train(None, options, rules.batches(5, (12,), -1))
        (arrays,) = port.split_haiku(params, state).values()
        assert port.from_haiku(**arrays, **options).updates == 5
        with pytest.raises(bn.errors.PortError, match="decay_rate is not that of the training"):
            port.from_haiku(**arrays, **{**options, "decay_rate": 0.95})
