"""What `recalibrate` is given, when it stops, and what it says."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import pytest
import torch
from torch import nn

import batchnorm as bn
from batchnorm.errors import OptionError, StatisticsError, SurgeryError
from batchnorm.surgery import Recalibration
from batchnorm.surgery.recalibration.batches import device_of

from .populations import assert_population, batches, inputs_of, make


class Pair(NamedTuple):
    images: torch.Tensor
    label: int


@dataclass
class Sample:
    images: torch.Tensor


STRUCTURES = {
    "tensor": (lambda x: x, None),
    "tuple": (lambda x: (x, torch.zeros(len(x))), None),
    "list": (lambda x: [x, "label"], None),
    "named": (lambda x: Pair(x, 3), None),
    "dict": (lambda x: {"x": x}, None),
    "object": (Sample, lambda model, batch: model(batch.images)),
    "nested": (lambda x: {"a": [x]}, lambda model, batch: model(batch["a"][0])),
}


@pytest.mark.parametrize(("wrap", "forward"), STRUCTURES.values(), ids=STRUCTURES.keys())
def test_batches_have_any_structure(wrap, forward):
    model, other, loader = make(), make(), batches()
    bn.recalibrate(model, [wrap(x) for x in loader], forward)
    bn.recalibrate(other, loader)
    for name, buffer in other.named_buffers():
        assert torch.equal(model.get_buffer(name), buffer), name


def test_an_object_is_the_argument_of_a_model_that_takes_one():
    class Takes(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = bn.BatchNorm1d(2)

        def forward(self, sample):
            return self.norm(sample.images)

    model, x = Takes(), torch.randn(8, 2)
    bn.recalibrate(model, iter([Sample(x)]))
    assert_population(model.norm, x.double().T)


def test_the_result_says_how_far_statistics_moved_and_is_json():
    from batchnorm.records import from_json, to_json

    layer = bn.BatchNorm1d(2)
    layer.running_mean.copy_(torch.tensor([1.0, 0.0]))
    layer.running_var.copy_(torch.tensor([4.0, 1.0]))
    x = torch.tensor([[1.0, 3.0], [3.0, 3.0], [2.0, 3.0]])
    result = bn.recalibrate(layer, [x])
    row = result.layers[0]
    assert row.mean_shift == pytest.approx(3 / (1 + 1e-5) ** 0.5)
    assert row.var_ratio == pytest.approx(1e-5 / (1 + 1e-5))
    assert from_json(Recalibration, to_json(result)) == result
    assert "1 of 1 layers recalibrated, 1 pass over 1 batch" in str(result)


def test_it_stops_when_more_batches_would_change_nothing():
    torch.manual_seed(0)
    model = nn.Sequential(bn.BatchNorm1d(3), nn.Linear(3, 2), nn.BatchNorm1d(2))
    loader = [torch.randn(64, 3) for _ in range(200)]
    result = bn.recalibrate(model, loader, tolerance=0.05)
    assert result.converged and 8 <= result.batches < 200
    assert math.log2(result.batches) % 1 == 0
    # What it stopped at is as near to the rest of the data as was asked for, give or take.
    error = (model[0].running_mean - torch.cat(loader).mean(0)).abs()
    assert (error < 3 * 0.05).all()
    strict = bn.recalibrate(model, loader, tolerance=1e-9)
    assert strict.converged is False and strict.batches == 200
    assert "not converged" in str(strict)
    again = bn.recalibrate(model, loader, tolerance=0.05, passes=None)
    assert again.passes == 2 and again.converged


def test_it_does_not_stop_while_one_layer_still_moves():
    torch.manual_seed(0)
    model = nn.ModuleList([bn.BatchNorm1d(1), bn.BatchNorm1d(1), bn.BatchNorm1d(1)])
    still, moving = torch.randn(40, 64, 1), [torch.randn(64, 1) + k for k in range(40)]

    def forward(model, batch):
        for layer, x in zip(model, batch, strict=True):
            layer(x)

    for place in range(3):
        loader = [[moving[k] if i == place else still[k] for i in range(3)] for k in range(40)]
        for passes in (1, None):
            result = bn.recalibrate(model, loader, forward, tolerance=0.2, passes=passes)
            assert result.converged is False
    assert bn.recalibrate(model[0], list(still), tolerance=0.2).converged is True


def test_every_pass_sees_the_same_random_batches():
    class Noisy:
        def __iter__(self):
            return iter([torch.randn(6, 2, 6, 5) for _ in range(4)])

    model = make()
    torch.manual_seed(5)
    bn.recalibrate(model, Noisy(), passes=None)
    torch.manual_seed(5)
    values = inputs_of(model, list(Noisy()))
    for name in ("norm", "branch.1", "head.2"):
        assert_population(model.get_submodule(name), values[name])


def test_progress_is_told_after_every_batch():
    told = []
    bn.recalibrate(make(), batches(), progress=lambda *numbers: told.append(numbers))
    assert told == [(k, 5) for k in range(1, 6)]
    told.clear()
    bn.recalibrate(make(), batches(), passes=2, progress=lambda *numbers: told.append(numbers))
    assert told == [(k, 10) for k in range(1, 11)]
    told.clear()
    bn.recalibrate(make(), iter(batches()), progress=lambda *numbers: told.append(numbers))
    assert told == [(k, None) for k in range(1, 6)]


def test_a_bar_is_shown_in_a_terminal(monkeypatch, capsys):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setenv("FORCE_COLOR", "1")
    bn.recalibrate(make(), batches())
    assert "recalibrate" in capsys.readouterr().err
    bn.recalibrate(make(), batches(), progress=False)
    assert capsys.readouterr().err == ""


def test_without_rich_nothing_is_shown(monkeypatch, capsys):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setitem(__import__("sys").modules, "rich.console", None)
    bn.recalibrate(make(), batches())
    assert capsys.readouterr().err == ""


WRONG = {
    "passes": (OptionError, "passes to be None", {"passes": 0}),
    "tolerance": (OptionError, "tolerance to be None", {"tolerance": 0.0}),
    "nan": (OptionError, "tolerance to be None", {"tolerance": math.nan}),
    "used up": (OptionError, "gone through again", {"batches": iter(batches()), "passes": None}),
    "empty": (StatisticsError, "at least one batch", {"batches": []}),
    "keys": (OptionError, r"found dict\(images\)", {"batches": [{"images": 1}]}),
}


@pytest.mark.parametrize(("error", "match", "options"), WRONG.values(), ids=WRONG.keys())
def test_wrong_arguments(error, match, options):
    with pytest.raises(error, match=match):
        bn.recalibrate(make(), **{"batches": batches(), **options})


@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature")
def test_lazy_modules_are_refused():
    with pytest.raises(SurgeryError, match="1: lazy"):
        bn.recalibrate(nn.Sequential(bn.BatchNorm1d(3), nn.LazyLinear(2)), [torch.randn(4, 3)])


def test_batches_of_a_model_on_two_devices_stay_where_they_are():
    model = nn.ModuleDict({"here": bn.BatchNorm1d(2), "there": nn.Linear(2, 2, device="meta")})
    given = []

    def forward(x):
        given.append(x.device.type)
        return model["here"](x)

    model.forward = forward
    assert device_of(model) is None and device_of(model["there"]) == torch.device("meta")
    bn.recalibrate(model, [torch.randn(4, 2)])
    assert given == ["cpu"]
