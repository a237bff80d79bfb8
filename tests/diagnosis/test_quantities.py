"""Each quantity against its twin in `brute`, on a network of rows and one of pictures."""

import dataclasses
import math

import pytest
import torch
from torch import nn

import batchnorm as bn
from batchnorm.diagnosis import quantities
from batchnorm.diagnosis.evidence import BATCH, INFERENCE, RECALIBRATED, REDRAWN, TRAINING
from batchnorm.diagnosis.quantities import (
    between_batch,
    dead_units,
    effective_batch,
    error_growth,
    mean_error,
    saturated,
    switched_off,
)

from . import brute

SIZES = (6, 9, 5, 2)


class Head(nn.Module):
    """Mean over positions."""

    def forward(self, x):
        return x.flatten(2).mean(2) if x.dim() > 2 else x


def rows():
    return nn.Sequential(
        bn.BatchNorm1d(3), nn.ReLU(), nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), Head(),
        nn.Linear(4, 2),
    )  # fmt: skip


def pictures():
    return nn.Sequential(
        nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 4, 2), bn.BatchNorm2d(4), nn.ReLU(), Head(),
        nn.Linear(4, 2),
    )  # fmt: skip


def prepared(make):
    torch.manual_seed(3)
    model = make()
    for layer in (model[0], model[3]):
        channels = layer.num_features
        layer.weight.data = torch.tensor([1.5, -0.2, 0.7, 1e-4])[:channels]
        layer.bias.data = torch.tensor([0.3, -1.0, 0.1, -2.0])[:channels]
        layer.running_mean.copy_(torch.randn(channels))
        layer.running_var.copy_(torch.rand(channels) + 0.3)
    return model.eval()


def data(make):
    generator = torch.Generator().manual_seed(4)
    shape = (3,) if make is rows else (3, 4, 5)
    scale = torch.tensor([1.0, 3.0, 0.01]).view(3, *(1,) * (len(shape) - 1))
    batches = []
    for number, n in enumerate(SIZES):
        x = torch.randn(n, *shape, generator=generator) * scale + 0.4 * number
        if len(shape) > 1:  # values of a picture are correlated
            x = x + torch.randn(n, 3, 1, 1, generator=generator) * scale
        batches.append((x, torch.arange(n) % 2))
    return batches


def loss(output, batch):
    return nn.functional.cross_entropy(output, batch[1])


class Case:
    """What the library says, and the runs by hand."""

    def __init__(self, make):
        self.model, self.batches = prepared(make), data(make)
        self.found = bn.diagnose(self.model, self.batches, loss)
        self.twin = brute.Twin(self.model)
        self.by_batch = [self.twin.run(x.double()) for x, _ in self.batches]
        running = self.twin.running()
        self.inference = [self.twin.run(x.double(), running) for x, _ in self.batches]
        pooled = [brute.flat(self.by_batch, layer) for layer in (0, 1)]
        population = [(values.mean(1), values.var(1)) for values in pooled]
        self.recalibrated = [self.twin.run(x.double(), population) for x, _ in self.batches]

    def layer(self, number):
        return list(self.found.quantities.values())[number]

    def inputs(self, number):
        return [seen[number][0].detach() for seen, _ in self.by_batch]


@pytest.fixture(scope="module", params=[rows, pictures], ids=["rows", "pictures"])
def case(request):
    return Case(request.param)


both = pytest.mark.parametrize("number", [0, 1])


def near(expected):
    """Layers compute in float32: sums of a few hundred values."""
    return pytest.approx(expected, rel=2e-5, abs=1e-6)


@both
def test_running_statistics(case, number):
    layer = case.twin.model[3 * number]
    values = brute.flat(case.by_batch, number).detach()
    assert case.layer(number)["mean_error"] == near(brute.mean_error(layer, values))
    assert case.layer(number)["log_std_error"] == near(brute.log_std_error(layer, values))


@both
def test_batches(case, number):
    inputs = case.inputs(number)
    assert case.layer(number)["effective_batch"] == near(brute.effective_batch(inputs))
    assert case.layer(number)["between_batch"] == near(brute.between_batch(inputs))


@both
def test_variances(case, number):
    within = brute.variance_within(case.inputs(number))
    assert case.layer(number)["variance_over_eps"] == near(min(within) / brute.EPS)
    constant = sum(v < 10 * brute.EPS for v in within) / len(within)
    assert case.layer(number)["constant_channels"] == constant


@both
def test_magnitude(case, number):
    largest = max(float(t.detach().abs().max()) for seen, _ in case.by_batch for t in seen[number])
    found = case.layer(number)["magnitude"] * torch.finfo(torch.float32).max
    assert found == pytest.approx(largest, rel=1e-4)


@both
def test_signals(case, number):
    outputs = [seen[number][1] for seen, _ in case.by_batch]
    each = [brute.rms(y.detach().flatten().tolist()) for y in outputs]
    assert case.layer(number)["activation_rms"] == near(brute.rms(each))
    squares = count = 0
    for (seen, output), (_, target) in zip(case.by_batch, case.batches, strict=True):
        value = nn.functional.cross_entropy(output, target)
        (grad,) = torch.autograd.grad(value, seen[number][1], retain_graph=True)
        squares, count = squares + float((grad**2).sum()), count + grad.numel()
    assert case.layer(number)["error_rms"] == pytest.approx(math.sqrt(squares / count), rel=1e-4)


@both
def test_parameters(case, number):
    layer = case.twin.model[3 * number]
    magnitudes = sorted(layer.weight.abs().tolist())
    assert case.layer(number)["gamma"] == near(magnitudes[(len(magnitudes) - 1) // 2])
    off = [
        abs(w) < 1e-3 or b + 2 * abs(w) < 0
        for w, b in zip(layer.weight.tolist(), layer.bias.tolist(), strict=True)
    ]
    assert any(off) and not all(off)
    assert case.layer(number)["switched_off"] == near(sum(off) / len(off))
    assert case.layer(number)["updates"] == 1


@both
def test_dead_units(case, number):
    highest = torch.stack(
        [y.transpose(0, 1).flatten(1).amax(1) for y in (s[number][1] for s, _ in case.by_batch)]
    ).amax(0)
    assert case.layer(number)["dead_units"] == float((highest <= 0).double().mean())


def test_all_dead_units(case):
    shares = [(case.layer(n)["dead_units"], 3 + n) for n in (0, 1)]
    expected = sum(share * units for share, units in shares) / 7
    assert case.found.result.quantities["dead_units"] == near(expected)
    assert expected > 0


def test_gaps(case):
    outputs = {
        BATCH: [y.detach() for _, y in case.by_batch],
        INFERENCE: [y.detach() for _, y in case.inference],
        RECALIBRATED: [y.detach() for _, y in case.recalibrated],
    }
    found = case.found.result.quantities
    assert found["output_gap"] == near(brute.gap(outputs[BATCH], outputs[INFERENCE]))
    assert found["gap_recalibrated"] == near(brute.gap(outputs[BATCH], outputs[RECALIBRATED]))
    decisions = [torch.cat(outputs[run]).argmax(1) for run in (BATCH, INFERENCE)]
    expected = sum(a != b for a, b in zip(*map(torch.Tensor.tolist, decisions), strict=True)) / 22
    assert found["flip_rate"] == near(expected)


def test_losses(case):
    means = []
    for runs in (case.by_batch, case.inference):
        values = [
            nn.functional.cross_entropy(y, target, reduction="sum").item()
            for (_, y), (_, target) in zip(runs, case.batches, strict=True)
        ]
        means.append(sum(values) / 22)
    assert case.found.result.quantities["loss_gap"] == near(means[1] - means[0])


def test_redrawn_batches(case):
    """The order of the samples is that of the generator with seed 0."""
    order = torch.randperm(22, generator=torch.Generator().manual_seed(0))
    every = torch.cat([x for x, _ in case.batches]).double()
    outputs = torch.empty(22, 2, dtype=torch.float64)
    for chosen in order.split(list(SIZES)):
        outputs[chosen] = case.twin.run(every[chosen])[1].detach()
    expected = brute.gap([y.detach() for _, y in case.by_batch], list(outputs.split(list(SIZES))))
    assert case.found.result.quantities["gap_redrawn"] == near(expected)
    assert REDRAWN in case.found.evidence.layers["0"].runs


def test_leakage(case):
    x = max((x for x, _ in case.batches), key=len).double()
    other = torch.cat([x[:4], x[3:4].expand(5, *x.shape[1:])])
    expected = brute.gap(*([case.twin.run(t)[1][:4].detach()] for t in (x, other)))
    assert case.found.result.quantities["batch_leakage"] == near(expected)
    assert expected > 0.01
    assert case.found.result.quantities["inference_leakage"] == 0


def test_growth():
    signals = [16.0, 9.0, 3.0, 2.5]
    n, logs = len(signals), [math.log(s) for s in signals]
    slope = (n * sum(i * y for i, y in enumerate(logs)) - sum(range(n)) * sum(logs)) / (
        n * sum(i * i for i in range(n)) - sum(range(n)) ** 2
    )
    assert error_growth.growth(signals) == pytest.approx(math.exp(-slope))
    assert error_growth.growth([1.0, 0.0]) is None


def test_growth_of_the_network(case):
    first, second = (case.layer(n)["error_rms"] for n in (0, 1))
    assert case.found.result.quantities["error_growth"] == pytest.approx(first / second)


def test_cost(case):
    found = case.found
    assert 0 < found.result.quantities["cost"] <= found.result.seconds
    runs = {BATCH, TRAINING, INFERENCE, REDRAWN, RECALIBRATED, "recalibrate"}
    assert set(found.evidence.seconds) == runs


@pytest.mark.parametrize("activation", ["sigmoid", "tanh"])
@pytest.mark.parametrize("way", ["module", "function", "fused"])
def test_saturation(activation, way):
    torch.manual_seed(0)
    module = {"sigmoid": nn.Sigmoid(), "tanh": nn.Tanh()}[activation]

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = bn.BatchNorm1d(3, activation=activation if way == "fused" else None)
            self.module = module if way == "module" else nn.Identity()
            self.norm.weight.data.fill_(4.0)

        def forward(self, x):
            y = self.norm(x)
            return getattr(torch, activation)(y) if way == "function" else self.module(y)

    x = torch.randn(50, 3)
    found = bn.diagnose(Net(), [x])
    h = 4 * (x - x.mean(0)) / (x.var(0, unbiased=False) + 1e-5).sqrt()
    h = h.double().detach().requires_grad_()
    (slope,) = torch.autograd.grad(module(h).sum(), h)
    expected = float((slope < 0.01 * (0.25 if activation == "sigmoid" else 1.0)).double().mean())
    assert 0.05 < expected < 0.95
    assert saturated.of_layer(found.evidence, "norm") == pytest.approx(expected)
    assert found.quantities["norm"]["dead_units"] is None


def test_random_batches_have_a_ratio_of_1_and_sorted_ones_have_not():
    """The mean of F with many batches is d/(d − 2), d degrees of freedom within."""
    torch.manual_seed(0)
    batches = [torch.randn(32, 200) for _ in range(40)]
    layer = bn.BatchNorm1d(200)
    calls = bn.diagnose(layer, batches).evidence.layers[""].runs[BATCH]
    ratios = between_batch.between_batch(calls)
    degrees = 40 * 31
    spread = math.sqrt(2 / 39 + 2 / degrees) / math.sqrt(200)  # of the mean over 200 channels
    assert abs(float(ratios.mean()) - degrees / (degrees - 2)) < 4 * spread
    ordered = torch.cat(batches).sort(0).values.split(32)
    calls = bn.diagnose(layer, ordered).evidence.layers[""].runs[BATCH]
    assert float(between_batch.between_batch(calls).min()) > 100


@pytest.mark.parametrize("copies", [1, 4, 16])
def test_the_effective_batch_of_repeated_values(copies):
    """Pictures whose pixels are all alike say no more than one pixel each."""
    torch.manual_seed(0)
    x = torch.randn(64, 500, 1, 1).expand(64, 500, copies, copies)
    calls = bn.diagnose(bn.BatchNorm2d(500), [x, x + 0]).evidence.layers[""].runs[BATCH]
    pixels = copies**2
    # (count − 1) of the values against (N − 1) of the means
    exact = 64 * (63 / 64) * (64 * pixels / (64 * pixels - 1))
    assert float(effective_batch.effective_batch(calls).median()) == pytest.approx(exact, rel=1e-6)


def test_the_effective_batch_of_noise_is_all_of_it():
    torch.manual_seed(0)
    x = [torch.randn(64, 300, 4, 4) for _ in range(8)]
    layer = bn.diagnose(bn.BatchNorm2d(300), x).evidence.layers[""]
    found = effective_batch.effective_batch(layer.runs[BATCH])
    spread = 1024 * math.sqrt(2 / (8 * 63))
    assert 1024 - 4 * spread < float(found.median()) <= float(found.max()) == 1024


def test_virtual_batches_are_smaller():
    torch.manual_seed(0)
    x = [torch.randn(32, 5)]
    found = [
        bn.diagnose(bn.BatchNorm1d(5, virtual_batch_size=size), x).quantities[""]["effective_batch"]
        for size in (None, 8)
    ]
    assert found == [near(32.0), near(8.0)]
    flat = torch.randn(32, 5, 1, 1).expand(32, 5, 3, 3)
    layer = bn.BatchNorm2d(5, virtual_batch_size=8)
    found = bn.diagnose(layer, [flat]).quantities[""]["effective_batch"]
    assert found == near(8 * (31 / 32) * (288 / 287))


def test_every_measure_is_described():
    measures = (*quantities.LAYER_MEASURES, *quantities.NETWORK_MEASURES)
    assert all(m.title and m.meaning.endswith(".") and m.source for m in measures)
    for several in (quantities.LAYER_MEASURES, quantities.NETWORK_MEASURES):
        names = [measure.name for measure in several]
        assert len(set(names)) == len(names)
    for measure in measures:
        assert (measure.calm is None) == (measure.alarm is None)


def test_nan_is_measured_as_nothing(case):
    evidence = case.found.evidence
    layer = next(iter(evidence.layers.values()))
    broken = dataclasses.replace(layer, running_mean=torch.full_like(layer.running_mean, math.nan))
    assert math.isnan(mean_error.of(broken))
    with_nan = {"relu": dataclasses.replace(evidence.activations["1"], dead=None)}
    assert dead_units.of(dataclasses.replace(evidence, activations=with_nan)) is None


@pytest.mark.parametrize(("scale", "weight"), [(1e6, 1e-6), (1.0, 1e6)], ids=["input", "output"])
def test_magnitude_is_that_of_the_larger(scale, weight):
    layer = bn.BatchNorm1d(1)
    layer.weight.data.fill_(weight)
    x = torch.tensor([[-1.0], [3.0]]) * scale
    found = bn.diagnose(layer, [x]).quantities[""]["magnitude"]
    largest = max(float(t.detach().abs().max()) for t in (x, layer(x)))
    assert found * torch.finfo(torch.float32).max == pytest.approx(largest)
    assert largest > 1e5


def test_only_a_relu_is_switched_off_by_its_bias():
    weight, bias = torch.tensor([1.0, 0.1]), torch.tensor([-1.5, -1.0])
    assert switched_off.switched_off(weight, bias, before_relu=True).tolist() == [False, True]
    assert switched_off.switched_off(weight, bias, before_relu=False).tolist() == [False, False]
    assert switched_off.switched_off(weight, None, before_relu=True).tolist() == [False, False]
    small = torch.tensor([9e-4, -9e-4, 1.1e-3])
    assert switched_off.switched_off(small, None, before_relu=False).tolist() == [True, True, False]
