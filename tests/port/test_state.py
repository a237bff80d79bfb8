"""The record between the frameworks, and what becomes of numbers on the way."""

import copy
import math
from typing import ClassVar

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import batchnorm as bn
from batchnorm import port
from batchnorm.errors import OptionError, PortError
from batchnorm.port import numbers

ONE = [1.0, 1.0]


def state(**changes):
    fields = {"mean": [0.5, -1.0], "var": [1.0, 4.0], "weight": [2.0, 1.0], "bias": [0.0, 3.0]}
    return port.State(**{**fields, "eps": 1e-3, "momentum": 0.01, **changes})


@given(st.decimals(0, 1, places=6))
def test_momentum_turned_twice_is_itself(value):
    momentum = float(value)
    once = numbers.turned(momentum, "momentum")
    assert once == pytest.approx(1 - momentum, abs=2e-16)
    assert numbers.turned(once, "momentum") == momentum


@pytest.mark.parametrize("value", [None, "0.9", True, math.nan, math.inf, -0.1, 1.5, [0.9, 0.9]])
def test_momentum_that_is_none(value):
    with pytest.raises(OptionError, match="expected momentum"):
        port.from_keras([ONE] * 4, epsilon=1e-3, momentum=value)


@pytest.mark.parametrize("value", [None, "1e-3", True, math.nan, 0, -1e-3])
def test_eps_that_is_none(value):
    with pytest.raises(OptionError, match="expected epsilon"):
        port.from_keras([ONE] * 4, epsilon=value, momentum=0.9)


def test_numbers_are_never_defaulted():
    for read in (port.from_keras, port.from_flax, port.from_onnx, port.from_tf_keras):
        with pytest.raises(TypeError, match=r"epsilon.*momentum"):
            read([ONE] * 4)


@pytest.mark.parametrize("number", [np.float32(0.5), np.array(0.5), torch.tensor(0.5)])
def test_numbers_of_other_libraries(number):
    found = port.from_keras([ONE] * 4, epsilon=number, momentum=number)
    assert (found.eps, found.momentum) == (0.5, 0.5)


@pytest.mark.parametrize("axis", [(1, 2), [], 0, "last", None])
def test_several_axes_have_other_vectors(axis):
    with pytest.raises(OptionError, match="the one axis of the channels"):
        port.from_keras([ONE] * 4, epsilon=1e-3, momentum=0.9, axis=axis)
    assert port.from_keras([ONE] * 4, epsilon=1e-3, momentum=0.9, axis=[3]).num_features == 2


@pytest.mark.parametrize(
    ("dims", "cls"), [(1, bn.BatchNorm1d), (2, bn.BatchNorm2d), (3, bn.BatchNorm3d)]
)
def test_a_layer_of_it(dims, cls):
    layer = state(updates=7).layer(dims, activation="relu")
    assert type(layer) is cls
    assert layer.activation == "relu"
    assert (layer.eps, layer.momentum, int(layer.num_batches_tracked)) == (1e-3, 0.01, 7)
    assert layer.training
    x = torch.randn(4, 2, *(3,) * (dims if dims > 1 else 0), dtype=torch.float64)
    shape = (1, 2, *(1,) * (x.dim() - 2))
    mean, var, weight, bias = (
        torch.tensor(v, dtype=torch.float64).view(shape)
        for v in ([0.5, -1.0], [1.0, 4.0], [2.0, 1.0], [0.0, 3.0])
    )
    expected = ((x - mean) / (var + 1e-3).sqrt() * weight + bias).relu()
    torch.testing.assert_close(layer.eval()(x), expected)


def test_a_layer_has_one_to_three_axes():
    for dims in (0, 4, True, "2"):
        with pytest.raises(OptionError, match="expected dims"):
            state().layer(dims)


HALF, BF16, F32, F64 = torch.float16, torch.bfloat16, torch.float32, torch.float64


@pytest.mark.parametrize(
    ("affine", "statistics", "expected"),
    [
        (F32, F32, (F32, F32)),
        (HALF, F32, (HALF, F32)),
        (BF16, BF16, (BF16, F32)),
        (HALF, HALF, (HALF, F32)),
        (F64, F32, (F64, F64)),
        (F32, F64, (F64, F64)),
        (BF16, F64, (F64, F64)),
        (F32, HALF, (F32, F32)),
    ],
)
def test_a_layer_holds_every_value_exactly(affine, statistics, expected):
    values = torch.tensor([1 / 3, 0.7])
    record = state(
        weight=values.to(affine),
        bias=values.to(affine),
        mean=values.to(statistics),
        var=values.to(statistics),
    )
    layer = record.layer(1)
    assert (layer.weight.dtype, layer.running_var.dtype) == expected
    for key in ("weight", "bias"):
        assert torch.equal(getattr(layer, key).double(), values.to(affine).double())
    assert torch.equal(layer.running_mean.double(), values.to(statistics).double())
    assert torch.equal(layer.running_var.double(), values.to(statistics).double())


def test_the_variance_is_rescaled_only_when_asked_for():
    arrays = [ONE, ONE, ONE, [2.0, 8.0]]
    options: ClassVar = {"epsilon": 1e-3, "momentum": 0.9}
    assert port.from_keras(arrays, **options).var.tolist() == [2.0, 8.0]
    counted = port.from_keras(arrays, **options, count=5)
    assert counted.var.tolist() == [2.5, 10.0]
    assert counted.correction == 1
    assert port.to_keras(counted, count=5).arrays["moving_variance"].tolist() == [2.0, 8.0]
    assert port.to_keras(counted).arrays["moving_variance"].tolist() == [2.5, 10.0]
    # A record that says its variance is biased is not rescaled to be so once more.
    biased = port.from_keras(arrays, **options)
    assert port.to_keras(biased, count=5).arrays["moving_variance"].tolist() == [2.0, 8.0]
    fused = port.to_tf_keras(biased, count=5, fused=True)
    assert fused.arrays["moving_variance"].tolist() == [2.5, 10.0]


@pytest.mark.parametrize("count", [1, 0, -4, math.nan, "many", True])
def test_count_that_is_none(count):
    with pytest.raises(OptionError, match="expected count"):
        port.from_keras([ONE] * 4, epsilon=1e-3, momentum=0.9, count=count)


def test_count_needs_to_know_the_kernel_of_tf_keras():
    with pytest.raises(OptionError, match="fused to be True or False"):
        port.from_tf_keras([ONE] * 4, epsilon=1e-3, momentum=0.9, count=8)


def test_updates_are_never_zero():
    read = {"epsilon": 1e-3, "momentum": 0.99}
    assert port.from_keras([ONE] * 4, **read).updates == 299
    assert port.from_keras([ONE] * 4, **read, updates=5).updates == 5
    assert port.from_keras([ONE] * 4, **read, updates=0).updates == 1
    for bad in (-1, 1.5, "5", True):
        with pytest.raises(OptionError, match="updates"):
            port.from_keras([ONE] * 4, **read, updates=bad)


def test_what_has_no_other_momentum():
    layer = bn.BatchNorm1d(2, momentum=None)
    for write in (port.to_keras, port.to_flax, port.to_onnx):
        with pytest.raises(OptionError, match="momentum is None"):
            write(layer)
        assert write(layer, momentum=0.95).options["momentum"] == 0.95
    with pytest.raises(OptionError, match=r"decay_rate=0.99"):
        port.to_haiku(layer, ndim=2)
    still = bn.BatchNorm1d(2, momentum=0.0)
    assert port.to_keras(still).options["momentum"] == 1.0
    with pytest.raises(OptionError, match="forgets what it began with after inf updates"):
        port.to_equinox(still, mode="batch")


def test_freezing_at_the_neutral_value_is_not_learning():
    layer = bn.BatchNorm1d(2)
    layer.weight.requires_grad_(False)
    assert port.to_keras(layer).options["scale"] is False
    with torch.no_grad():
        layer.weight[0] = 2.0
    assert port.to_keras(layer).options["scale"] is True


def test_records_of_torch_and_of_errors():
    record = port.State.of(torch.nn.BatchNorm2d(2), "stem.bn")
    assert repr(record) == "State(2 channels, eps=1e-05, momentum=0.1, name='stem.bn')"
    with pytest.raises(PortError, match=r"^here: .*var, found -1 in channel 1"):
        state(var=[1.0, -1.0], name="here")
    with pytest.raises(PortError, match="expected a running mean, found None"):
        state(mean=None)
    with pytest.raises(OptionError, match="correction"):
        state(correction=2)
    with pytest.raises(OptionError, match=r"stem.bn: momentum is None"):
        port.to_keras(port.State.of(torch.nn.BatchNorm2d(2, momentum=None), "stem.bn"))


def test_a_record_shares_nothing():
    layer = bn.BatchNorm1d(2)
    record = port.State.of(layer)
    before = copy.deepcopy(record.mean)
    with torch.no_grad():
        layer.running_mean.fill_(9.0)
        layer.weight.fill_(9.0)
    assert torch.equal(record.mean, before)
    assert record.weight.tolist() == [1.0, 1.0]
    made = record.layer(1)
    made.running_mean.fill_(5.0)
    assert torch.equal(record.mean, before)


class TestHaiku:
    ema: ClassVar = {"hidden": [[0.19, 0.38]], "average": [[1.0, 2.0]], "counter": 2}
    params: ClassVar = {"scale": [[1.0, 2.0]], "offset": [[0.0, 1.0]]}
    options: ClassVar = {"eps": 1e-5, "decay_rate": 0.9}

    def read(self, **changes):
        given = {"params": self.params, "mean_ema": self.ema, "var_ema": self.ema, **changes}
        return port.from_haiku(**given, **self.options, name="bn")

    def test_the_average_is_what_counts(self):
        found = self.read()
        assert found.mean.tolist() == [1.0, 2.0]
        assert found.updates == 2

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"average": None}, "average lacks"),
            ({"counter": 0}, "counter is 0: no batch was seen"),
            ({"counter": 3}, "decay_rate is not that of the training"),
            ({"hidden": [[1.0, 2.0]]}, "decay_rate is not that of the training"),
            ({"hidden": [0.19, 0.38]}, "two checkpoints"),
        ],
    )
    def test_what_does_not_belong_together(self, changes, message):
        ema = {k: v for k, v in {**self.ema, **changes}.items() if v is not None}
        with pytest.raises(PortError, match=f"^bn: .*{message}"):
            self.read(var_ema=ema)

    def test_counters_that_differ(self):
        other = {"hidden": [[0.1, 0.2]], "average": [[1.0, 2.0]], "counter": 1}
        with pytest.raises(PortError, match=r"one counter.*found 2 in mean_ema and 1 in var_ema"):
            self.read(var_ema=other)

    @pytest.mark.parametrize(("ndim", "axis"), [(1, -1), (4, 4), (4, None), ("4", 1)])
    def test_axes_that_are_none(self, ndim, axis):
        with pytest.raises(OptionError, match="expected ndim"):
            port.to_haiku(bn.BatchNorm1d(2), ndim=ndim, axis=axis)

    def test_a_counter_of_ones_own(self):
        arrays, _ = port.to_haiku(bn.BatchNorm1d(2), ndim=4, axis=1, counter=3)
        average = arrays["var_ema"]
        assert average["average"].shape == (1, 2, 1, 1)
        np.testing.assert_allclose(average["hidden"], average["average"] * (1 - 0.9**3), rtol=1e-7)
        assert port.from_haiku(**arrays, **self.options).updates == 3
        for counter in (0, 2**31):
            with pytest.raises(OptionError, match="counter to be from 1"):
                port.to_haiku(bn.BatchNorm1d(2), ndim=2, counter=counter)


class TestEquinox:
    arrays: ClassVar = {"weight": ONE, "bias": ONE, "mean": [0.38, 0.0], "var": [0.81 + 0.76, 0.81]}
    options: ClassVar = {"eps": 1e-5, "momentum": 0.9}

    def test_the_one_it_began_with_is_taken_out(self):
        found = port.from_equinox(self.arrays, mode="batch", counter=2, **self.options)
        assert found.mean.tolist() == pytest.approx([2.0, 0.0])
        assert found.var.tolist() == pytest.approx([4.0, 0.0])
        assert (found.var >= 0).all()

    @pytest.mark.parametrize(
        ("changes", "error", "message"),
        [
            ({}, OptionError, "counter=state.get"),
            ({"counter": 0}, PortError, "counter is 0"),
            ({"counter": 1}, PortError, r"var to be more than momentum\*\*1 = 0.9"),
            ({"counter": 2, "momentum": 1.0}, OptionError, "momentum is 1"),
            ({"counter": 2.5}, OptionError, "counter"),
            ({"mode": "ema", "first_time": np.array(True)}, PortError, "first_time is True"),
            ({"mode": "legacy"}, OptionError, "'ema', 'batch'; found 'legacy'"),
        ],
    )
    def test_what_has_no_statistics(self, changes, error, message):
        options = {"mode": "batch", **self.options, **changes}
        with pytest.raises(error, match=f"^bn: .*{message}"):
            port.from_equinox(self.arrays, name="bn", **options)

    def test_one_of_weight_and_bias_brings_the_other(self):
        arrays, options = port.to_equinox(bn.BatchNorm1d(2, bias=False), mode="ema")
        assert options["channelwise_affine"] is True
        assert arrays["bias"].tolist() == [0.0, 0.0]
        bare = port.to_equinox(bn.BatchNorm1d(2, affine=False), mode="ema")
        assert "weight" not in bare.arrays


@given(
    st.sampled_from(["keras", "tf_keras", "flax", "haiku", "equinox ema", "equinox batch", "onnx"]),
    st.data(),
)
def test_there_and_back_exactly(framework, data):
    """Any float32 values, any momentum of four decimals."""
    width = data.draw(st.integers(1, 5))
    number = st.floats(-(2.0**90), 2.0**90, width=32)
    vector = st.lists(number, min_size=width, max_size=width)
    positive = st.lists(st.floats(0, 2.0**90, width=32), min_size=width, max_size=width)
    momentum = float(data.draw(st.decimals("0.001", "0.999", places=4)))
    wanted = port.State(
        np.float32(data.draw(vector)),
        np.float32(data.draw(positive)),
        np.float32(data.draw(vector)),
        np.float32(data.draw(vector)),
        eps=data.draw(st.floats(1e-12, 1.0)),
        momentum=momentum,
    )
    found = _there_and_back(framework, wanted)
    for key in ("mean", "var", "weight", "bias"):
        assert torch.equal(getattr(found, key), getattr(wanted, key)), key
    assert (found.eps, found.momentum) == (wanted.eps, wanted.momentum)


def _there_and_back(framework, state):
    if framework == "haiku":
        arrays, options = port.to_haiku(state, ndim=3)
        return port.from_haiku(**arrays, **options)
    if framework.startswith("equinox"):
        arrays, options = port.to_equinox(state, mode=framework.split()[1])
        extra = {k: arrays.pop(k) for k in ("counter", "first_time") if k in arrays}
        del options["input_size"]
        return port.from_equinox(arrays, **extra, **options)
    arrays, options = getattr(port, f"to_{framework}")(state)
    return getattr(port, f"from_{framework}")(arrays, **options)
