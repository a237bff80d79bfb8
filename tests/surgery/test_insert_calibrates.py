"""`insert(calibrate=)`: new layers that change nothing in evaluation, and are fit for training."""

import copy

import pytest
import torch
from torch import nn

import batchnorm as bn
from batchnorm.errors import OptionError, StatisticsError, SurgeryError
from batchnorm.surgery.insertion import calibrate as module

from .nets import Net, distance, norms, run
from .test_insert_networks import BARE, batch

CASES = [case for case in BARE if case != "levit"]


def mlp(dtype=torch.float32):
    layers = [nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 5, bias=False), nn.Tanh(), nn.Linear(5, 2)]
    return nn.Sequential(*layers).to(dtype)


def batches(*sizes, shift=3.0):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(size, 3, generator=generator) + shift for size in sizes]


@pytest.mark.parametrize("where", ["before_activation", "after_activation", "input"])
@pytest.mark.parametrize("case", CASES)
def test_function_is_unchanged_in_evaluation(case, where):
    make, shape, *_ = BARE[case]
    torch.manual_seed(0)
    model, x, other = make().double(), batch(shape).double(), batch(shape, 9).double()
    if (case, where) == ("mobilenet_v2", "input"):
        model = nn.Sequential(model)
    state = copy.deepcopy(model.state_dict())
    data = [batch(shape, seed).double() for seed in (1, 2)]
    new = bn.insert(model, x, where=where, calibrate=data)
    assert len(norms(new)) > len(norms(model))
    assert distance(run(new, other), run(model, other)) < 1e-11  # rounding in float64
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())


def test_statistics_are_those_of_all_values_and_without_the_bias():
    model, data = mlp(torch.float64), [x.double() for x in batches(2, 5, 1)]
    new = bn.insert(model, data[0], calibrate=data)
    x = torch.cat(data)
    first = x @ model[0].weight.T
    second = (first + model[0].bias).relu() @ model[2].weight.T
    for name, values, bias in (("0_norm", first, model[0].bias), ("2_norm", second, 0.0)):
        norm = new.get_submodule(name)
        close = {"atol": 1e-12, "rtol": 1e-12}
        torch.testing.assert_close(norm.running_mean, values.mean(0), **close)
        torch.testing.assert_close(norm.running_var, values.var(0), **close)
        torch.testing.assert_close(norm.weight.detach(), (values.var(0) + 1e-5).sqrt(), **close)
        torch.testing.assert_close(norm.bias.detach(), (values.mean(0) + bias).detach(), **close)
        assert norm.num_batches_tracked == 3


def test_each_bias_of_a_shared_layer_is_put_into_both_normalizations():
    shared = nn.Linear(3, 3)
    model = nn.Sequential(shared, nn.ReLU(), shared, nn.Tanh(), nn.Linear(3, 2))
    x = batches(6)[0]
    new = bn.insert(model, x, calibrate=[x, x + 1])
    assert norms(new) == ["0_norm", "2_norm"] and new[0].bias is None
    assert distance(run(new, x), run(model, x)) < 1e-6


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.half])
def test_means_far_from_zero_are_proved_within_the_rounding_of_the_dtype(dtype):
    model = mlp(dtype)
    data = [x.to(dtype) for x in batches(16, 16, shift=50.0)]
    new = bn.insert(model, data[0], calibrate=data)
    assert new[1].running_mean.dtype == torch.float32


def test_constant_channels_stay_what_they_are():
    model = nn.Sequential(nn.Linear(3, 2), nn.ReLU(), nn.Linear(2, 1))
    nn.init.zeros_(model[0].weight)
    x = batches(4)[0]
    new = bn.insert(model, x, calibrate=[x])
    assert torch.equal(new[1].running_var, torch.zeros(2))
    assert distance(run(new, x), run(model, x)) < 1e-6


def test_batches_are_taken_as_recalibrate_takes_them():
    model = Net(lambda m, x, scale=1.0: m.b((scale * m.a(x)).relu()), a=nn.Linear(3, 4), b=mlp()[0])
    model.b = nn.Linear(4, 2)
    x = batches(4)[0]
    plain = bn.insert(model, x, calibrate=[x]).state_dict()
    for data in ([(x, torch.zeros(4))], [{"x": x}], [[x]]):
        again = bn.insert(model, x, calibrate=data).state_dict()
        assert all(torch.equal(plain[name], value) for name, value in again.items())
    scaled = bn.insert(model, x, example_kwargs={"scale": 2.0}, calibrate=[{"x": x, "scale": 2.0}])
    assert torch.equal(scaled.a.norm.running_mean, plain["a.norm.running_mean"])


def test_batches_run_once_in_evaluation_without_gradients_on_a_copy():
    seen = []

    def forward(m, x):
        seen.append((m.training, torch.is_grad_enabled(), m is model))
        return m.b(m.a(x).relu())

    model = Net(forward, a=nn.Linear(3, 4), b=nn.Linear(4, 2))
    data = batches(4, 4)
    bn.insert(model, data[0], calibrate=iter(data))
    assert set(seen) == {(False, False, False)} and model.training
    before = len(seen)
    bn.insert(model, data[0], calibrate=data * 3)
    assert len(seen) - before == before + 4


def test_a_training_step_follows_that_of_the_normalized_network():
    model = mlp()
    data = batches(64)
    new = bn.insert(model, data[0], calibrate=data).train()
    # The statistics of this batch are those of all data: only the variance's correction differs.
    assert distance([new(data[0]).detach()], [model(data[0]).detach()]) < 1 / 64
    new(data[0]).square().mean().backward()
    assert all(p.grad.isfinite().all() for p in new.parameters())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"affine": False}, "expected affine=True, found False"),
        ({"bias": False}, "expected bias=True"),
        ({"track_running_stats": False}, "expected track_running_stats=True"),
    ],
)
def test_what_it_needs_of_the_layers(options, message):
    x = batches(4)[0]
    with pytest.raises(OptionError, match=message):
        bn.insert(mlp(), x, calibrate=[x], **options)


def test_refuses_to_guess():
    x = batches(4)[0]
    with pytest.raises(SurgeryError, match="proved on an example"):
        bn.insert(mlp(), calibrate=[x])
    with pytest.raises(StatisticsError, match="at least one batch"):
        bn.insert(mlp(), x, calibrate=[])
    with pytest.raises(StatisticsError, match=r"two finite values of each channel of 0_norm"):
        bn.insert(mlp(), x, calibrate=[x[:1]])
    with pytest.raises(StatisticsError, match="NaN or infinity"):
        bn.insert(mlp(), x, calibrate=[x, x * torch.nan])


def test_a_wrong_calibration_is_noticed(monkeypatch):
    right = module._set

    def wrong(layer, name, population, bias):
        right(layer, name, population, bias)
        with torch.no_grad():
            layer.weight.copy_(layer.running_var)

    monkeypatch.setattr(module, "_set", wrong)
    x = batches(4)[0]
    with pytest.raises(SurgeryError, match="the model with calibrated batch normalization"):
        bn.insert(mlp(), x, calibrate=[x])


def test_an_exception_in_a_batch_leaves_the_model_as_it_was():
    model, x = mlp(), batches(4)[0]
    state = copy.deepcopy(model.state_dict())

    def data():
        yield x
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        bn.insert(model, x, calibrate=data())
    assert list(model._modules) == ["0", "1", "2", "3", "4"] and model.training
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())
