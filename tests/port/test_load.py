"""Whole networks: every layer, or none."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

import batchnorm as bn
from batchnorm import port
from batchnorm.errors import OptionError, PortError, ShapeError


def state(channels, name="", **changes):
    generator = np.random.default_rng(channels)
    vectors = [generator.uniform(0.5, 2, channels).astype(np.float32) for _ in range(4)]
    fields = dict(zip(("mean", "var", "weight", "bias"), vectors, strict=True))
    numbers = {"eps": 1e-3, "momentum": 0.01, "updates": 299, "name": name}
    return port.State(**{**fields, **numbers, **changes})


def net(norm=nn.BatchNorm1d):
    return nn.Sequential(
        nn.Linear(3, 4), norm(4), nn.ReLU(), nn.Sequential(nn.Linear(4, 5), norm(5))
    )


def snapshot(model):
    """All that a port may change."""
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    tensors = {k: v.clone() for k, v in model.state_dict().items()}
    grads = {n: p.requires_grad for n, p in model.named_parameters()}
    return tensors, grads, [(m.eps, m.momentum) for m in norms]


def assert_same(before, after):
    assert before[1:] == after[1:]
    for key, value in before[0].items():
        assert torch.equal(value, after[0][key]), key


@pytest.mark.parametrize("norm", [nn.BatchNorm1d, bn.BatchNorm1d, nn.SyncBatchNorm])
def test_by_name_and_by_order(norm):
    model, other = net(norm), net(norm)
    records = {"3.1": state(5, "second"), "1": state(4, "first")}
    before = {k: v.data_ptr() for k, v in model.state_dict().items()}
    changes = port.load(model, records)
    assert [str(c) for c in changes] == [
        "3.1: load 5 channels, eps 0.001, momentum 0.01 (from second)",
        "1: load 4 channels, eps 0.001, momentum 0.01 (from first)",
    ]
    port.load(other, [records["1"], records["3.1"]])
    for found in (model, other):
        for name, record in records.items():
            layer = found.get_submodule(name)
            assert torch.equal(layer.running_mean, record.mean)
            assert torch.equal(layer.running_var, record.var)
            assert torch.equal(layer.weight, record.weight)
            assert torch.equal(layer.bias, record.bias)
            assert (layer.eps, layer.momentum) == (1e-3, 0.01)
            assert int(layer.num_batches_tracked) == 299
    assert {k: v.data_ptr() for k, v in model.state_dict().items()} == before


def test_a_dry_run_changes_nothing():
    model = net()
    before = snapshot(model)
    changes = port.load(model, [state(4), state(5)], dry_run=True)
    assert [c.name for c in changes] == ["1", "3.1"]
    assert_same(before, snapshot(model))


def test_the_counter_keeps_what_was_ported_from_being_overwritten():
    """With momentum=None and a counter of 0 the first batch would be the average of all."""
    model = nn.Sequential(bn.BatchNorm1d(4))
    record = state(4, momentum=None, updates=9)
    port.load(model, [record])
    x = torch.randn(16, 4)
    model(x)
    expected = record.mean * 0.9 + x.mean(0) * 0.1
    torch.testing.assert_close(model[0].running_mean, expected)


BAD = [
    ([state(4)], PortError, "records as the model has batch normalizations, 2, found 1.*number 2: "
     "5 channels at '3.1' here, nothing there"),
    ([state(4), state(5), state(6)], PortError, "found 3.*number 3: nothing here, 6 channels"),
    ([state(5, "a"), state(4)], ShapeError,
     "number 1: 4 channels at '1' here, 5 channels from 'a' there"),
    ({"1": state(4)}, PortError, "found none for '3.1'; with strict=False"),
    ({"1": state(4), "3.1": state(5), "9": state(1)}, PortError, "'1', '3.1'.*nothing at '9'"),
    ({"0": state(4), "1": state(4), "3.1": state(5)}, PortError, "Linear at '0'"),
    ({"1": state(4), "3.1": state(4, "bn7")}, ShapeError,
     r"3.1 \(from bn7\): expected 5 channels, found 4"),
    (state(4), OptionError, "records by name, or a list of them, found State"),
    ([{"mean": 0}, state(5)], OptionError, "such as from_keras returns, found dict"),
]  # fmt: skip


@pytest.mark.parametrize(("records", "error", "message"), BAD)
def test_what_does_not_fit_changes_nothing(records, error, message):
    model = net()
    before = snapshot(model)
    with pytest.raises(error, match=message):
        port.load(model, records)
    assert_same(before, snapshot(model))


def test_a_part_can_be_filled_by_name_only():
    model = net()
    port.load(model, {"3.1": state(5)}, strict=False)
    assert model[1].eps == 1e-5
    with pytest.raises(OptionError, match="an order says nothing about gaps"):
        port.load(model, [state(5)], strict=False)


def test_what_is_not_there_is_not_learned():
    model = net()
    changes = port.load(model, [state(4, weight=None), state(5, weight=None, bias=None)])
    assert "weight not learned" in str(changes[0])
    assert "weight and bias not learned" in str(changes[1])
    first, second = model[1], model[3][1]
    assert torch.equal(first.weight, torch.ones(4))
    assert not first.weight.requires_grad
    assert first.bias.requires_grad
    assert not second.weight.requires_grad
    assert not second.bias.requires_grad
    assert torch.equal(second.bias, torch.zeros(5))


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (nn.BatchNorm1d(4, affine=False), "has a weight and the layer has none.*affine=True"),
        (bn.BatchNorm1d(4, bias=False), "has a bias and the layer has none.*bias=True"),
        (nn.BatchNorm1d(4, track_running_stats=False), "track_running_stats=False"),
        (nn.LazyBatchNorm1d(), "lazy.*run one batch"),
        (nn.BatchNorm1d(4, device="meta"), "meta device"),
    ],
    ids=["affine", "bias", "statistics", "lazy", "meta"],
)
def test_layers_that_cannot_hold_it(layer, message):
    model = nn.Sequential(nn.BatchNorm1d(5), layer)
    weight = model[0].weight.clone()
    with pytest.raises(PortError, match=f"1 .from there.: .*{message}"):
        port.load(model, {"0": state(5), "1": state(4, "there")})
    assert torch.equal(model[0].weight, weight)


def test_a_parametrized_weight_is_refused():
    layer = nn.BatchNorm1d(4)
    parametrize.register_parametrization(layer, "weight", nn.Identity())
    with pytest.raises(PortError, match="weight is computed"):
        port.load(layer, [state(4)])
    assert torch.equal(port.State.of(layer).weight, torch.ones(4))


def test_values_that_half_precision_cannot_hold():
    weight = np.full(4, 1e5, np.float32)
    with pytest.raises(PortError, match=r"weight has values up to 100000, .* float16"):
        port.load(nn.BatchNorm1d(4).half(), [state(4, weight=weight)])


def test_shared_layers_and_tensors():
    shared = nn.BatchNorm1d(4)
    model = nn.ModuleDict({"a": shared, "b": shared})
    port.load(model, {"b": state(4)})
    assert torch.equal(shared.running_mean, state(4).mean)
    with pytest.raises(PortError, match=r"a\.weight and b.weight are the same tensor"):
        port.load(model, {"a": state(4), "b": state(4, weight=np.ones(4))})
    same = state(4)
    port.load(model, {"a": same, "b": same})


def test_an_interruption_leaves_the_model_as_it_was(monkeypatch):
    model = net(bn.BatchNorm1d)
    before = snapshot(model)
    write = port.State.write

    def fails(self, layer):
        write(self, layer)
        if self.num_features == 5:
            raise KeyboardInterrupt

    monkeypatch.setattr(port.State, "write", fails)
    with pytest.raises(KeyboardInterrupt):
        port.load(model, [state(4, weight=None), state(5)])
    assert_same(before, snapshot(model))


def test_states_reads_what_load_has_written():
    model = net(bn.BatchNorm1d)
    records = {"1": state(4), "3.1": state(5, bias=None)}
    port.load(model, records)
    found = port.states(copy.deepcopy(model))
    for name, record in records.items():
        assert found[name].name == name
        for key in ("mean", "var", "weight", "bias"):
            a, b = getattr(found[name], key), getattr(record, key)
            assert a is b is None or torch.equal(a, b)
        assert found[name].updates == 299


def test_an_activation_would_be_lost():
    model = nn.Sequential(bn.BatchNorm1d(4), bn.BatchNorm1d(5, activation="relu"))
    with pytest.raises(PortError, match=r"1: the layer has an activation in it \(relu\)"):
        port.states(model)
    with pytest.raises(PortError, match="found GroupNorm"):
        port.to_keras(nn.GroupNorm(1, 4))


def test_an_optimizer_keeps_its_parameters():
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    port.load(model, [state(4), state(5)])
    model(torch.randn(8, 3)).square().sum().backward()
    before = model[1].weight.clone()
    optimizer.step()
    assert not torch.equal(model[1].weight, before)


def test_a_model_made_under_inference_mode_is_refused_whole():
    with torch.inference_mode():
        model = net()
    with pytest.raises(RuntimeError):
        port.load(model, [state(4), state(5)])
    assert torch.equal(model[1].running_mean, torch.zeros(4))
    assert model[1].eps == 1e-5
