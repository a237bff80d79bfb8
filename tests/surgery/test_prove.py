"""A wrong edit is seen, a rounding is allowed."""

import copy

import pytest
import torch
from torch import nn

import batchnorm as bn
from batchnorm.errors import SurgeryError
from batchnorm.surgery.editing.prove import require_equal
from batchnorm.surgery.example import Example
from batchnorm.surgery.folding import draft

from .nets import Net, norms, randomized
from .test_fold import images

X = images(4, 5)


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3))


def prove(original, edited, x=X, eps=2**-23):
    return require_equal(original, edited, Example((x,), {}), eps, "the edited model")


def test_equal_models_differ_by_nothing():
    assert prove(net(), net()) == 0


def test_one_rounding_of_each_weight_is_allowed():
    edited = net()
    with torch.no_grad():
        for p in edited.parameters():
            p.copy_(torch.nextafter(p, torch.full_like(p, torch.inf)))
    assert 0 < prove(net(), edited) < 1e-6


@pytest.mark.parametrize("part", ["0.weight", "0.bias", "2.weight", "2.bias"])
def test_a_hundredth_of_a_percent_is_not(part):
    edited = net()
    with torch.no_grad():
        edited.get_parameter(part).mul_(1.0001)
    with pytest.raises(SurgeryError, match="gives another output 0 of shape"):
        prove(net(), edited)


def test_nan_differs_from_a_number_and_not_from_nan():
    broken = net()
    with torch.no_grad():
        broken[2].bias[0] = torch.nan
    with pytest.raises(SurgeryError, match="found inf"):
        prove(net(), broken)
    assert prove(broken, copy.deepcopy(broken)) == 0


def test_other_shapes_differ():
    with pytest.raises(SurgeryError, match="gives outputs"):
        prove(net(), net().append(nn.Unflatten(1, (3, 1))))


def test_whole_numbers_are_equal_or_not():
    index = Net(lambda m, x: m.fc(x).argmax(1), fc=nn.Linear(5, 3))
    other = copy.deepcopy(index)
    with torch.no_grad():
        other.fc.bias[0] = 100
    with pytest.raises(SurgeryError, match="up to 0, found"):
        prove(index, other)


def test_a_model_without_outputs_proves_nothing():
    with pytest.raises(SurgeryError, match="gives no outputs on the example"):
        prove(Net(lambda m, x: None), Net(lambda m, x: None))


def test_fold_raises_where_its_arithmetic_is_wrong(monkeypatch):
    model = randomized(nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4)))
    before = copy.deepcopy(model.state_dict())
    right = draft.into_outputs

    def wrong(layer, own, after):
        weight, bias = right(layer, own, after)
        return draft.Weights(weight * (1 + 1e-12), bias)

    monkeypatch.setattr(draft, "into_outputs", wrong)
    with pytest.raises(SurgeryError, match="the folded model in float64 gives another output"):
        bn.fold(model, X)
    assert norms(model) == ["1"]
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_numbers_drawn_in_evaluation_are_drawn_again():
    noisy = Net(lambda m, x: m.fc(x) + torch.rand(()), fc=nn.Linear(5, 3))
    assert prove(noisy, copy.deepcopy(noisy)) == 0


def test_half_precision_inside_is_allowed_for():
    model = Net(
        lambda m, x: m.norm(m.fc(x)).bfloat16().float(),
        fc=nn.Linear(5, 4),
        norm=nn.BatchNorm1d(4),
    )
    folded, _ = bn.fold(randomized(model), X)
    assert not norms(folded)
