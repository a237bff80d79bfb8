"""A look at a network leaves it bit for bit as it was."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.testing import assert_close

from batchnorm.study.claims.backward_growth import depth_profile
from batchnorm.study.claims.dead_units import count_dead, dead_mask, saturation
from batchnorm.study.claims.distribution_drift import DriftMeter
from batchnorm.study.claims.gradient_shift import ShiftMeter
from batchnorm.study.data import Data, Part
from batchnorm.study.probe import activation_inputs, by_unit, twin, watched
from batchnorm.study.training import evaluate, evaluate_all

from .cases import (
    CLASSES,
    assert_untouched,
    convolutional,
    dense,
    in_place,
    networks,
    normalized,
    problem_for,
    snapshot,
    unroll,
)

LOOKS = {
    "drift": lambda m, x, y: DriftMeter(x).look(0, m),
    "profile": lambda m, x, y: depth_profile(0, m, x, y),
    "dead": lambda m, x, y: count_dead(dead_mask(m, x), m, x),
    "saturation": lambda m, x, y: saturation(m, x),
    "shift": lambda m, x, y: ShiftMeter().start(0, m, x, y)(),
    "evaluate": lambda m, x, y: evaluate(m, Part(x, y)),
    "evaluate all": lambda m, x, y: evaluate_all(m, Data(*(Part(x, y),) * 3, CLASSES), 0),
}

looks = pytest.mark.parametrize("look", LOOKS.values(), ids=LOOKS.keys())


@looks
@networks
def test_look_leaves_the_network_bit_for_bit(make, look):
    model, x, y = problem_for(make)
    functional.cross_entropy(model(x), y).backward()  # there are gradients to be kept
    model[-1].register_forward_hook(lambda *_: None)
    model[0].eval()  # a mixture of flags, as a frozen layer has
    before, x_before = snapshot(model), x.clone()

    look(model, x, y)

    assert_untouched(before, model)
    assert_close(x, x_before, rtol=0, atol=0)


class AlwaysRandom(nn.Module):
    """Draws in eval mode too, as `functional.dropout` does unless told otherwise."""

    def forward(self, x):
        return functional.dropout(x, 0.5)


@pytest.mark.parametrize("look", ["drift", "profile", "dead", "saturation", "shift"])
def test_look_at_a_network_that_always_draws_does_not_change_the_training_after_it(look):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), AlwaysRandom(), nn.Linear(5, CLASSES))
    x, y = torch.randn(6, 4), torch.zeros(6, dtype=torch.int64)
    before = snapshot(model)
    LOOKS[look](model, x, y)
    assert_untouched(before, model)


@networks
def test_inputs_are_those_of_every_call_in_order_of_depth(make):
    model, x, _ = problem_for(make)
    expected = unroll(model, x)[0]

    found = activation_inputs(model, x)

    assert len(found) == len(expected)
    for (_, h), by_hand in zip(found, expected, strict=True):
        assert_close(h, by_hand, rtol=1e-12, atol=1e-12)


def test_in_place_activation_does_not_overwrite_what_was_seen():
    model, x, _ = problem_for(in_place)
    assert all(bool((h < 0).any()) for _, h in activation_inputs(model, x))


def test_statistics_are_those_of_the_probe_set():
    model, x, _ = problem_for(normalized(dense))
    expected = unroll(model, x)[0]
    for (_, h), by_hand in zip(activation_inputs(model.train(), x), expected, strict=True):
        assert_close(h, by_hand, rtol=1e-12, atol=1e-12)


def test_twin_trains_nothing_but_its_batch_normalization():
    model = nn.Sequential(nn.Dropout(), nn.BatchNorm1d(2), nn.Sequential(nn.SyncBatchNorm(2)))
    copied = twin(model.train())
    assert [m.training for m in copied.modules()] == [False, False, True, False, True]
    assert all(m.training for m in model.modules())
    model[1].eval()  # frozen by its owner
    assert [m.training for m in twin(model).modules()] == [False, False, False, False, True]
    assert copied[1].weight is not model[1].weight


def test_hooks_are_gone_though_the_network_raises():
    model = dense()
    with pytest.raises(RuntimeError), watched(model):
        model(torch.randn(2, 99))
    assert not any(m._forward_pre_hooks for m in model.modules())


def test_gradients_pass_to_the_input_of_an_in_place_activation():
    model, x, _ = problem_for(in_place)
    with watched(model) as seen:
        scores = model(x)
    grads = torch.autograd.grad(scores.sum(), [h for _, h in seen])
    assert_close(grads[1], (model[4].weight.sum(0) * (seen[1][1] > 0)).detach())


def test_activation_called_by_keyword_is_seen():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.act = nn.ReLU()

        def forward(self, x):
            return self.act(input=2 * x)

    x = torch.randn(3, 2)
    ((_, h),) = activation_inputs(Net(), x)
    assert_close(h, 2 * x)


@pytest.mark.parametrize("shape", [(5, 3), (5, 3, 4), (2, 3, 4, 2)])
def test_unit_is_a_channel_at_all_its_positions(shape):
    h = torch.randn(shape)
    table = by_unit(h)
    assert table.shape == (h.numel() // 3, 3)
    for c in range(3):
        assert sorted(table[:, c].tolist()) == sorted(h[:, c].reshape(-1).tolist())


def test_copy_does_not_share_running_statistics():
    model, x, _ = problem_for(normalized(convolutional))
    old = copy.deepcopy(model.state_dict())
    twin(model)(x)
    assert_close(dict(model.state_dict()), dict(old), rtol=0, atol=0)
