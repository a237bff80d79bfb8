"""Layers are made lazily, on the meta device, with a device or a dtype, as torch's are."""

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.nn.modules.lazy import LazyModuleMixin

import batchnorm as bn

from .cases import (
    OPTIONS,
    SHAPES,
    assert_close,
    assert_identical,
    batch,
    each_class,
    each_option,
    layer,
    state,
    without_count,
)

LAZY = {
    bn.BatchNorm1d: (bn.LazyBatchNorm1d, nn.LazyBatchNorm1d),
    bn.BatchNorm2d: (bn.LazyBatchNorm2d, nn.LazyBatchNorm2d),
    bn.BatchNorm3d: (bn.LazyBatchNorm3d, nn.LazyBatchNorm3d),
}


def lazy(cls, options="plain", **more):
    """A layer that does not know its channels yet, and what it is to become."""
    arguments = {k: v for k, v in OPTIONS[options].items() if k != "num_batches_tracked"}
    if "renorm" in arguments:
        arguments["renorm"] = bn.Renorm(**arguments["renorm"])
    return LAZY[cls][0](**arguments, **more), cls(4, **arguments, **more)


@each_class
@each_option
def test_lazy_layer_becomes_ours_with_its_options(cls, options):
    made, expected = lazy(cls, options)
    assert isinstance(made, LazyModuleMixin)
    for seed in range(2):
        assert torch.equal(made(batch(cls, seed=seed)), expected(batch(cls, seed=seed)))
    assert type(made) is cls
    assert repr(made) == repr(expected)
    assert_identical(state(made), state(expected))
    assert torch.equal(made.eval()(batch(cls)), expected.eval()(batch(cls)))


@each_class
@pytest.mark.parametrize(
    "options", [{"affine": False}, {"bias": False}, {"track_running_stats": False}], ids=str
)
def test_lazy_layer_without_some_tensors(cls, options):
    made, expected = lazy(cls, **options)
    assert torch.equal(made(batch(cls)), expected(batch(cls)))
    assert_identical(state(made), state(expected))


@each_class
def test_lazy_layer_takes_the_checkpoint_before_its_first_batch(cls):
    trained = layer(cls)
    trained(batch(cls))
    made, _ = lazy(cls)
    made.load_state_dict(trained.state_dict(), strict=True)
    assert_identical(dict(made.state_dict()), dict(trained.state_dict()))
    assert torch.equal(made.eval()(batch(cls)), trained.eval()(batch(cls)))
    assert type(made) is cls


@each_class
def test_lazy_layer_takes_torchs_checkpoint_and_gives_its_own(cls):
    its = LAZY[cls][1]()
    its(batch(cls))
    made, _ = lazy(cls)
    made.load_state_dict(its.state_dict(), strict=True)
    assert torch.equal(made.running_mean, its.running_mean)
    uninitialized, expected = lazy(cls)[0].state_dict(), LAZY[cls][1]().state_dict()
    assert list(uninitialized) == list(expected)


@each_class
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_lazy_layer_of_another_dtype(cls, dtype):
    made, expected = lazy(cls, dtype=dtype)
    x = batch(cls, dtype=dtype)
    assert torch.equal(made(x), expected(x))
    assert_identical(state(made), state(expected))


@each_class
def test_lazy_layer_moved_to_half_before_its_first_batch(cls):
    made, _ = lazy(cls)
    made.half()
    expected = cls(4).half()
    x = batch(cls, dtype=torch.float16)
    assert torch.equal(made(x), expected(x))
    assert_identical(state(made), state(expected))


def test_lazy_layers_in_a_network_after_a_dry_run():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(4, 6, 2),
        bn.LazyBatchNorm2d(activation="relu"),
        nn.Flatten(),
        nn.LazyLinear(3),
        bn.LazyBatchNorm1d(),
    )
    with bn.no_update(model):
        model(batch())
    assert [type(model[k]) for k in (1, 4)] == [bn.BatchNorm2d, bn.BatchNorm1d]
    assert [model[k].num_features for k in (1, 4)] == [6, 3]
    assert [model[k].num_batches_tracked.item() for k in (1, 4)] == [0, 0]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before = state(model)
    model(batch()).square().sum().backward()
    optimizer.step()
    assert model[1].num_batches_tracked == 1
    torch.testing.assert_close(model[1].bias, before["1.bias"] - 0.1 * model[1].bias.grad)


@each_class
def test_lazy_layer_is_pickled_as_torchs(cls):
    """Neither can be deep-copied before its first batch: torch's buffers refuse."""
    made, expected = lazy(cls, activation="relu")
    other = pickle.loads(pickle.dumps(made))
    assert torch.equal(other(batch(cls)), expected(batch(cls)))
    assert made.has_uninitialized_params()
    for each in (made, LAZY[cls][1]()):
        with pytest.raises(ValueError, match="uninitialized parameter"):
            copy.deepcopy(each)


@each_class
def test_lazy_layer_in_evaluation_as_torchs(cls):
    made, its = lazy(cls)[0].eval(), LAZY[cls][1]().eval()
    torch.testing.assert_close(made(batch(cls)), its(batch(cls)))


@each_class
def test_lazy_layer_refuses_the_wrong_number_of_axes(cls):
    made, _ = lazy(cls)
    with pytest.raises(ValueError, match="axes"):
        made(torch.zeros(1, 2, 3, 4, 5, 6))


@each_class
@pytest.mark.parametrize("options", ["plain", "renorm", "fused"])
@pytest.mark.parametrize("how", ["device=", "context"])
def test_layer_of_the_meta_device_takes_a_checkpoint(cls, options, how):
    trained = layer(cls, options)
    trained(batch(cls))
    if how == "device=":
        made = layer_on_meta(cls, options, device="meta")
    else:
        with torch.device("meta"):
            made = layer_on_meta(cls, options)
    assert {tensor.device.type for tensor in state(made).values()} == {"meta"}
    emptied = copy.deepcopy(made).to_empty(device="cpu")
    emptied.load_state_dict(trained.state_dict())
    made.load_state_dict(trained.state_dict(), assign=True)
    x = batch(cls, seed=1)
    for other in (emptied, made):
        expected = copy.deepcopy(trained)
        assert torch.equal(other(x), expected(x))
        assert_identical(without_count(state(other)), without_count(state(expected)))


def layer_on_meta(cls, options, **more):
    arguments = {k: v for k, v in OPTIONS[options].items() if k != "num_batches_tracked"}
    if "renorm" in arguments:
        arguments["renorm"] = bn.Renorm(**arguments["renorm"])
    return cls(4, **arguments, **more)


@each_class
def test_emptied_layer_is_reset_as_torchs(cls):
    made = cls(4, device="meta").to_empty(device="cpu")
    made.reset_parameters()
    assert_identical(state(made), state(cls(4)))


@each_class
def test_nonfinite_count_survives_the_meta_device(cls):
    made = cls(4, device="meta")
    made.load_state_dict(cls(4).state_dict(), assign=True)
    x = batch(cls)
    x[0, 2] = torch.nan
    made(x)
    assert made.num_nonfinite.tolist() == [0, 0, 1, 0]


@each_class
@each_option
def test_shapes_come_out_of_the_meta_device(cls, options):
    made = layer_on_meta(cls, options, device="meta")
    x = torch.empty(SHAPES[cls], device="meta", requires_grad=True)
    y = made(x)
    y.sum().backward()
    assert y.shape == x.grad.shape == made.eval()(x).shape == x.shape


@each_class
def test_layer_whose_initialization_was_skipped(cls):
    made = torch.nn.utils.skip_init(cls, 4)
    made.reset_parameters()
    assert_close(state(made), state(cls(4)))
