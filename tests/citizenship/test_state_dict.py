"""Checkpoints go both ways between our layers and torch's, and keep float32 statistics."""

import copy
import io
import pickle

import pytest
import torch
from torch import nn

import batchnorm as bn

from .cases import (
    TORCH,
    assert_close,
    assert_identical,
    batch,
    each_class,
    each_option,
    layer,
    randomize,
    state,
    without_count,
)

HALVES = (torch.bfloat16, torch.float16)
each_half = pytest.mark.parametrize("dtype", HALVES, ids=str)
RUNNING = ("running_mean", "running_var")


def torchs(cls, **options):
    made = TORCH[cls](4, **options)
    randomize(made)
    return made


@each_class
@pytest.mark.parametrize(
    "options",
    [{}, {"affine": False}, {"bias": False}, {"track_running_stats": False}, {"momentum": None}],
    ids=str,
)
@pytest.mark.parametrize("assign", [False, True], ids=["copied", "assigned"])
def test_state_dict_goes_both_ways(cls, options, assign):
    ours, its = cls(4, **options), TORCH[cls](4, **options)
    ours(batch(cls)), its(batch(cls))
    fresh = cls(4, **options), TORCH[cls](4, **options)
    assert list(ours.state_dict()) == list(its.state_dict())
    fresh[0].load_state_dict(its.state_dict(), strict=True, assign=assign)
    fresh[1].load_state_dict(ours.state_dict(), strict=True, assign=assign)
    for made, saved in zip(fresh, (its, ours), strict=True):
        assert_identical(dict(made.state_dict()), dict(saved.state_dict()))
    x = batch(cls, seed=1)
    torch.testing.assert_close(fresh[0].eval()(x), its.eval()(x))
    torch.testing.assert_close(fresh[1].eval()(x), ours.eval()(x))


@each_option
def test_options_add_nothing_to_the_state_dict(options):
    made = layer(options=options)
    assert list(made.state_dict()) == list(nn.BatchNorm2d(4).state_dict())
    assert made.state_dict()._metadata == nn.BatchNorm2d(4).state_dict()._metadata


@each_option
def test_training_goes_on_after_loading_where_it_was(options):
    made, other = layer(options=options), layer(options=options)
    made(batch(seed=0))
    other.load_state_dict(made.state_dict())
    outputs = [each(batch(seed=1)) for each in (made, other)]
    assert torch.equal(*outputs)
    assert_identical(without_count(state(made)), without_count(state(other)))


@each_half
@pytest.mark.parametrize("assign", [False, True], ids=["copied", "assigned"])
@each_class
def test_half_checkpoint_keeps_float32_statistics(cls, dtype, assign):
    saved = torchs(cls).to(dtype).state_dict()
    made = cls(4)
    made.load_state_dict(saved, assign=assign)
    for name in RUNNING:
        buffer = getattr(made, name)
        assert buffer.dtype is torch.float32
        assert torch.equal(buffer, saved[name].float())
    assert made.weight.dtype is (dtype if assign else torch.float32)
    assert torch.equal(made.weight, saved["weight"].to(made.weight.dtype))
    assert made.num_batches_tracked.dtype is torch.int64


@pytest.mark.parametrize("assign", [False, True], ids=["copied", "assigned"])
def test_double_checkpoint_is_loaded_as_by_torch(assign):
    saved = torchs(bn.BatchNorm2d).double().state_dict()
    made, its = bn.BatchNorm2d(4), nn.BatchNorm2d(4)
    for each in (made, its):
        each.load_state_dict(saved, assign=assign)
    assert_identical(dict(made.state_dict()), dict(its.state_dict()))


@each_half
def test_loading_does_not_change_the_checkpoint(dtype):
    saved = torchs(bn.BatchNorm2d).to(dtype).state_dict()
    before = {name: tensor.clone() for name, tensor in saved.items()}
    made = bn.BatchNorm2d(4)
    made.load_state_dict(saved, assign=True)
    made(batch().to(dtype))
    assert_identical({name: saved[name] for name in RUNNING}, {n: before[n] for n in RUNNING})
    assert {name: t.dtype for name, t in saved.items()} == {n: t.dtype for n, t in before.items()}


CONVERSIONS = {
    "half()": (lambda m: m.half(), torch.float16),
    "bfloat16()": (lambda m: m.bfloat16(), torch.bfloat16),
    "to(dtype)": (lambda m: m.to(torch.float16), torch.float16),
    "to(device, dtype)": (lambda m: m.to("cpu", torch.bfloat16), torch.bfloat16),
    "to(tensor)": (lambda m: m.to(torch.zeros(1).half()), torch.float16),
    "type(dtype)": (lambda m: m.type(torch.float16), torch.float16),
    "inside a model": (lambda m: nn.Sequential(nn.Sequential(m)).half()[0][0], torch.float16),
}


@pytest.mark.parametrize("conversion", CONVERSIONS)
@pytest.mark.parametrize("kept", [torch.float32, torch.float64], ids=str)
@each_class
def test_half_conversions_keep_the_statistics(cls, conversion, kept):
    convert, dtype = CONVERSIONS[conversion]
    made = layer(cls).to(kept)
    before = state(made)
    made = convert(made)
    assert made.weight.dtype is made.bias.dtype is dtype
    assert torch.equal(made.weight, before["weight"].to(dtype))
    assert_identical(
        {name: getattr(made, name) for name in RUNNING}, {name: before[name] for name in RUNNING}
    )


@each_class
def test_there_and_back_again_loses_nothing_of_the_statistics(cls):
    made = layer(cls)
    before = {name: getattr(made, name).clone() for name in RUNNING}
    for convert in ("half", "bfloat16", "float", "double", "float"):
        made = getattr(made, convert)()
    assert_identical({name: getattr(made, name) for name in RUNNING}, before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@each_class
def test_full_conversions_are_torchs(cls, dtype):
    made, its = layer(cls).to(dtype), torchs(cls).to(dtype)
    found = without_count(state(made))
    assert {k: v.dtype for k, v in found.items()} == {k: v.dtype for k, v in state(its).items()}


@each_half
@each_class
def test_half_constructor_keeps_float32_statistics(cls, dtype):
    made = cls(4, dtype=dtype)
    assert made.weight.dtype is made.bias.dtype is dtype
    assert made.running_mean.dtype is made.running_var.dtype is torch.float32
    assert cls(4, dtype=torch.float64).running_var.dtype is torch.float64


@each_half
def test_default_dtype_half_keeps_float32_statistics(dtype):
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        made = bn.BatchNorm2d(4)
    finally:
        torch.set_default_dtype(before)
    assert made.weight.dtype is dtype
    assert made.running_mean.dtype is made.running_var.dtype is torch.float32


def saved_and_loaded(made):
    file = io.BytesIO()
    torch.save(made.state_dict(), file)
    file.seek(0)
    fresh = copy.deepcopy(made)
    fresh.reset_parameters()
    fresh.load_state_dict(torch.load(file, weights_only=True))
    return fresh


COPIES = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda made: pickle.loads(pickle.dumps(made)),
    "torch.save": saved_and_loaded,
}


@pytest.mark.parametrize("way", COPIES)
@each_option
@each_class
def test_copies_train_alike_and_share_nothing(cls, options, way):
    made = layer(cls, options)
    made(batch(cls))
    expected, before = copy.deepcopy(made), state(made)
    other = COPIES[way](made)
    assert repr(other) == repr(made)
    x = batch(cls, seed=1)
    assert torch.equal(other(x), expected(x))
    assert_identical(state(other), state(expected))
    assert_identical(state(made), before)


def test_checkpoint_of_a_whole_network_goes_both_ways():
    torch.manual_seed(0)
    ours, its = (
        nn.Sequential(nn.Conv2d(4, 4, 2), norm(4), nn.ReLU(), nn.Conv2d(4, 4, 1), norm(4))
        for norm in (bn.BatchNorm2d, nn.BatchNorm2d)
    )
    ours.load_state_dict(its.state_dict(), strict=True)
    for seed in range(3):
        torch.testing.assert_close(ours(batch(seed=seed)), its(batch(seed=seed)))
    assert_close(dict(ours.state_dict()), dict(its.state_dict()))
    its.load_state_dict(ours.state_dict(), strict=True)
    assert torch.equal(its.eval()[1].running_var, ours[1].running_var)


def test_loading_a_checkpoint_without_the_count_of_batches():
    saved = nn.BatchNorm2d(4).state_dict()
    del saved["num_batches_tracked"]
    saved._metadata[""]["version"] = 1
    made = layer()
    made.num_batches_tracked.fill_(7)
    made.load_state_dict(saved)
    its = nn.BatchNorm2d(4)
    its.num_batches_tracked.fill_(7)
    its.load_state_dict(saved)
    assert torch.equal(made.num_batches_tracked, its.num_batches_tracked)


def test_missing_and_unexpected_keys_are_named_as_by_torch():
    made, its = bn.BatchNorm2d(4), nn.BatchNorm2d(4)
    saved = its.state_dict()
    saved["extra"] = saved.pop("running_var")
    found, expected = (each.load_state_dict(saved, strict=False) for each in (made, its))
    assert found == expected
    with pytest.raises(RuntimeError, match="running_var"):
        made.load_state_dict(saved)
