import copy
import math

import pytest
import torch

from batchnorm import BatchNorm1d
from batchnorm.errors import OptionError, StatisticsError
from batchnorm.nn import BatchNorm

from .cases import (
    BEFORE,
    assert_running,
    assert_same_state,
    batch_of,
    each_class,
    known,
    moved,
    random,
    state,
)


@each_class
@pytest.mark.parametrize(
    "convert",
    [
        lambda layer: layer.half(),
        lambda layer: layer.bfloat16(),
        lambda layer: layer.to(torch.float16),
        lambda layer: layer.to("cpu", torch.bfloat16),
        lambda layer: layer.to(torch.empty(0, dtype=torch.bfloat16)),
        lambda layer: layer.type(torch.half),
        lambda layer: torch.nn.Sequential(layer).half()[0],
    ],
    ids=["half", "bfloat16", "to dtype", "to device, dtype", "to other", "type", "parent"],
)
@pytest.mark.parametrize("wide", [torch.float32, torch.float64], ids=str)
def test_half_layer_keeps_every_digit_of_its_statistics(cls, convert, wide):
    layer = cls(4, dtype=wide)
    layer.running_mean.fill_(1 / 3)
    layer.running_var.fill_(1e6 + 1 / 3)
    before = state(layer)
    convert(layer)
    assert layer.weight.dtype in (torch.float16, torch.bfloat16)
    assert_same_state(layer, before)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("assign", [True, False])
def test_half_checkpoint_is_loaded_as_float32(dtype, assign):
    its = torch.nn.BatchNorm1d(2).to(dtype)
    its.running_mean.fill_(1 / 3)
    layer = BatchNorm1d(2, dtype=dtype)
    layer.load_state_dict(its.state_dict(), assign=assign)
    assert {layer.running_mean.dtype, layer.running_var.dtype} == {torch.float32}
    assert torch.equal(layer.running_mean, its.running_mean.float())
    assert layer.num_nonfinite.tolist() == [0, 0]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_running_mean_of_a_half_layer_does_not_stall(dtype):
    """Half running statistics would stop where an update is below half an ulp of them."""
    layer = BatchNorm1d(1, momentum=0.001, dtype=dtype)
    x = torch.tensor([[0.0], [2.0]], dtype=dtype)
    for _ in range(1000):
        layer(x)
    left = 0.999**1000
    assert_close = torch.testing.assert_close
    rounding = 1000 * torch.finfo(torch.float32).eps  # at most 1 ulp in each step
    assert_close(layer.running_mean.item(), 1 - left, rtol=rounding, atol=0.0)
    assert_close(layer.running_var.item(), 2 - left, rtol=rounding, atol=0.0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_full_precision_is_what_was_asked_for(dtype):
    layer = BatchNorm1d(2, dtype=torch.float16).to(dtype)
    assert {t.dtype for t in (layer.weight, layer.running_mean, layer.running_var)} == {dtype}
    layer = BatchNorm1d(2, dtype=torch.float64).float()
    assert layer.running_mean.dtype is torch.float32


@pytest.mark.parametrize("degenerate", ["raise", "running"])
@pytest.mark.parametrize("options", [{}, {"virtual_batch_size": 2}, {"momentum": None}], ids=str)
@pytest.mark.parametrize(
    ("shape", "mask"),
    [((0, 3), None), ((4, 3, 0), None), ((0, 3, 0), None), ((4, 3), [False] * 4)],
)
def test_batch_without_values_moves_nothing(shape, mask, degenerate, options):
    layer = known(degenerate=degenerate, **options)
    before = state(layer)
    x = torch.full(shape, math.nan, requires_grad=True)
    y = layer(x, mask=None if mask is None else torch.tensor(mask))
    y.sum().backward()
    assert torch.equal(y, torch.zeros(shape))
    for grad in (x.grad, layer.weight.grad, layer.bias.grad):
        assert torch.equal(grad, torch.zeros_like(grad))
    assert_same_state(layer, before)


SINGLE = {
    "one sample": ((1, 3), {}),
    "one position": ((1, 3, 1), {}),
    "one that is not masked": ((4, 3), {"mask": [False, True, False, False]}),
    "one of positive weight": ((4, 3), {"sample_weight": [0.0, 0.5, 0.0, 0.0]}),
}


@pytest.mark.parametrize("case", SINGLE)
@pytest.mark.parametrize("degenerate", ["raise", "running"])
def test_single_value_moves_nothing(case, degenerate):
    shape, arguments = SINGLE[case]
    arguments = {name: torch.tensor(values) for name, values in arguments.items()}
    layer = known(degenerate=degenerate)
    before = state(layer)
    x = random(shape)
    if degenerate == "raise":
        with pytest.raises(StatisticsError, match=r"more than 1 value per channel"):
            layer(x, **arguments)
    else:
        keep = {name: value for name, value in arguments.items() if name == "mask"}
        torch.testing.assert_close(layer(x, **arguments), copy.deepcopy(layer).eval()(x, **keep))
    assert_same_state(layer, before)


def test_chunk_of_one_value_leaves_the_batch_enough():
    layer = known(1, degenerate="running", virtual_batch_size=2, affine=False)
    x = torch.tensor([[1.0], [3.0], [5.0], [-9.0]])
    y = layer(x, mask=torch.tensor([True, True, True, False]))
    expected = torch.tensor([[-1.0], [1.0], [(5.0 - BEFORE[0]) / BEFORE[1] ** 0.5], [0.0]])
    torch.testing.assert_close(y, expected, rtol=1e-5, atol=1e-5)
    assert_running(layer, *moved(3.0, 4.0), 6)


def test_evaluation_moves_nothing():
    layer = known().eval()
    before = state(layer)
    layer(random((8, 3)))
    assert_same_state(layer, before)


def test_frozen_parameters_do_not_freeze_the_statistics():
    layer = known().requires_grad_(False)
    layer(batch_of(10.0, 10.0, 10.0))
    assert_running(layer, *moved(10.0, 2.0), 6)


@pytest.mark.parametrize("training", [True, False])
def test_tracking_switched_off_later_is_as_in_torch(training):
    ours, its = known(), torch.nn.BatchNorm1d(3)
    its.load_state_dict(ours.state_dict())
    before, x = state(ours), random((6, 3))
    for layer in (ours, its):
        layer.track_running_stats = False
        layer.train(training)
    torch.testing.assert_close(ours(x), its(x))
    assert_same_state(ours, before)


@pytest.mark.parametrize("momentum", [0.0, 0.25, 1.0, torch.tensor(0.25)])
def test_momentum_is_the_weight_of_the_new_value(momentum):
    layer = known(momentum=float(momentum))
    layer.momentum = momentum
    layer(batch_of(10.0, 10.0, 10.0))
    assert_running(layer, *moved(10.0, 2.0, float(momentum)), 6)


@pytest.mark.parametrize("momentum", [-0.1, 1.1, math.nan, math.inf])
def test_momentum_set_later_is_checked(momentum):
    layer = known()
    layer.momentum = momentum
    before = state(layer)
    with pytest.raises(OptionError, match=r"BatchNorm1d\(3\): expected momentum .* from 0 to 1"):
        layer(random((4, 3)))
    assert_same_state(layer, before)


def test_every_batch_of_any_number_of_axes_is_counted_once():
    layer = BatchNorm(3)
    for shape in ((4, 3), (4, 3, 2), (4, 3, 2, 2), (4, 3, 2, 2, 1), (2, 3, 1, 2, 1, 3)):
        layer(random(shape))
    assert layer.num_batches_tracked == 5
