"""Recalibrated statistics, compared with those of recorded inputs in one float64 pass."""

import math

import pytest
import torch
from torch import nn

import batchnorm as bn
from batchnorm.surgery.recalibration.population import Population, measure

from .populations import (
    NORMS,
    SIZES,
    assert_population,
    batches,
    each_origin,
    each_pass,
    inputs_of,
    is_norm,
    make,
)


@each_origin
def test_one_pass_gives_the_statistics_of_all_inputs_in_training(norm):
    model, loader = make(norm), batches()
    names = [name for name, module in model.named_modules() if is_norm(module)]
    values = inputs_of(model, loader, training=names)
    result = bn.recalibrate(model, loader)
    assert values.keys() == set(names)
    for name in names:
        assert_population(model.get_submodule(name), values[name])
    assert [layer.values for layer in result.layers] == [values[n].shape[1] for n in names]
    assert [layer.batches for layer in result.layers] == [len(SIZES)] * 4
    assert (result.passes, result.batches, result.converged) == (1, len(SIZES), None)


@each_origin
def test_layer_after_layer_gives_the_statistics_of_all_inputs_in_inference(norm):
    model, loader = make(norm), batches()
    result = bn.recalibrate(model, loader, passes=None)
    # `shared` is given what it has made of other inputs, so there is no such thing for it.
    values = inputs_of(model, loader)
    for name in ("norm", "branch.1", "head.2"):
        assert_population(model.get_submodule(name), values[name])
    assert result.passes == 4


def test_the_two_ways_differ_where_batches_are_not_alike():
    loader = batches(drift=3.0)
    model, other = make(), make()
    bn.recalibrate(model, loader)
    bn.recalibrate(other, loader, passes=None)
    assert torch.equal(model.norm.running_mean, other.norm.running_mean)
    ratio = model.branch[1].running_var / other.branch[1].running_var
    assert (ratio - 1).abs().max() > 0.1


def test_groups_are_of_neighbors_in_the_order_of_calls():
    model, loader = make(), batches()
    bn.recalibrate(model, loader, passes=2)
    values = inputs_of(model, loader, training=["shared", "head.2"])
    names = ["norm", "branch.1"]
    first = inputs_of(make(), loader, training=names)
    for name in names:
        assert_population(model.get_submodule(name), first[name])
    for name in ("shared", "head.2"):
        assert_population(model.get_submodule(name), values[name])


def test_the_order_is_that_of_calls_not_of_registration():
    class Backwards(nn.Module):
        def __init__(self):
            super().__init__()
            self.last, self.middle, self.first = (bn.BatchNorm2d(2) for _ in range(3))

        def forward(self, x):
            return self.last(self.middle(self.first(x).relu()).exp())

    model, loader = Backwards(), batches(drift=0.5)
    bn.recalibrate(model, loader, passes=None)
    for name, values in inputs_of(model, loader).items():
        assert_population(model.get_submodule(name), values)


@each_pass
def test_batches_of_any_size_give_what_one_batch_gives_in_the_first_layer(passes):
    whole = torch.cat(batches())
    model, other = make(), make()
    bn.recalibrate(model, [whole], passes=passes)
    bn.recalibrate(other, whole.split(5), passes=passes)
    values = inputs_of(model, [whole])["norm"]
    for layer in (model.norm, other.norm):
        assert_population(layer, values)


def test_update_bn_of_torch_gets_this_wrong():
    """Why there is a verb of our own: there batches weigh alike, and their differences are lost."""
    loader = [torch.zeros(256, 1) + torch.tensor([-1.0, 1.0]).repeat(128)[:, None]] * 4
    loader += [torch.full((2, 1), 19.0)]
    ours, theirs = bn.BatchNorm1d(1), nn.BatchNorm1d(1)
    torch.optim.swa_utils.update_bn(loader, theirs)
    bn.recalibrate(ours, loader)
    truth = torch.cat(loader).double()
    assert_population(ours, truth.T)
    assert abs(theirs.running_mean.item() - truth.mean().item()) > 3
    assert abs(theirs.running_var.item() - truth.var().item()) > 0.5


@pytest.mark.parametrize("offset", [1e3, 1e5, 1e6])
@each_origin
def test_a_large_mean_costs_no_precision(norm, offset):
    layer = NORMS[norm][0](3)
    loader = [offset + torch.randn(33, 3) * torch.tensor([1.0, 0.3, 4.0]) for _ in range(9)]
    bn.recalibrate(layer, loader)
    assert_population(layer, torch.cat(loader).double().T)


def test_squares_beyond_float32_and_constant_channels():
    layer = bn.BatchNorm1d(3)
    x = torch.randn(40, 3) * torch.tensor([1e18, 1.0, 0.0]) + torch.tensor([0.0, 0.0, 5.0])
    bn.recalibrate(layer, x.split(8))
    assert_population(layer, x.double().T)
    assert layer.running_var[2] == 0
    wide = bn.BatchNorm1d(1, dtype=torch.float64)
    huge = torch.randn(40, 1) * 1e30
    bn.recalibrate(wide, huge.split(8))
    truth = huge.double().var()
    assert abs(wide.running_var.item() / truth - 1) <= 1e-12


@pytest.mark.parametrize("mask", ["samples", "positions"])
def test_what_a_mask_hides_does_not_count(mask):
    torch.manual_seed(0)
    layer = bn.BatchNorm1d(3)
    loader = []
    for n in (5, 9, 4):
        x = torch.randn(n, 3, 7)
        keep = torch.arange(n) > 1 if mask == "samples" else torch.rand(n, 7) > 0.4
        x.transpose(0, 1)[:, ~keep] = math.nan
        loader.append({"input": x, "mask": keep})
    result = bn.recalibrate(layer, loader)
    values = [b["input"].transpose(1, 2)[b["mask"]].reshape(-1, 3) for b in loader]
    assert_population(layer, torch.cat(values).double().T)
    assert result.layers[0].values == len(torch.cat(values))


def test_weights_of_samples_count():
    torch.manual_seed(0)
    layer, x, w = bn.BatchNorm1d(3), torch.randn(20, 3), torch.rand(20)
    parts = zip(x.split(6), w.split(6), strict=True)
    loader = [{"input": x, "sample_weight": w} for x, w in parts]
    bn.recalibrate(layer, loader)
    x, share = x.double(), (w.double() / w.double().sum())[:, None]
    mean = (x * share).sum(0)
    number = 1 / share.square().sum()
    var = ((x - mean).square() * share).sum(0) * number / (number - 1)
    torch.testing.assert_close(layer.running_mean.double(), mean, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(layer.running_var.double(), var, rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    "options",
    [
        {"virtual_batch_size": 3},
        {"renorm": bn.Renorm(warmup_steps=0, ramp_steps=1)},
        {"degenerate": "running"},
        {"activation": "silu"},
    ],
    ids=lambda options: next(iter(options)),
)
def test_options_of_training_do_not_change_the_population(options):
    plain, other, loader = make(), make(), batches()
    for module in other.modules():
        if is_norm(module) and module is not other.head[2] and "activation" not in options:
            module.set_options(**options)
    other.head[2].set_options(**options)
    shown = repr(other)
    bn.recalibrate(plain, loader)
    bn.recalibrate(other, loader)
    for name, buffer in plain.named_buffers():
        assert torch.equal(buffer, other.get_buffer(name)), name
    assert repr(other) == shown


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.half])
@each_origin
def test_half_precision(norm, dtype):
    layer = NORMS[norm][0](3).to(dtype)
    loader = [(3 + torch.randn(64, 3)).to(dtype) for _ in range(20)]
    bn.recalibrate(layer, loader)
    values = torch.cat(loader).double()
    if norm == "ours":
        assert layer.running_mean.dtype is torch.float32
        assert_population(layer, values.T)
    else:
        assert torch.equal(layer.running_mean, values.mean(0).to(dtype))
        assert torch.equal(layer.running_var, values.var(0).to(dtype))


@each_origin
def test_one_value_in_all_is_no_population(norm):
    layer = NORMS[norm][0](2)
    result = bn.recalibrate(layer, [torch.ones(1, 2), torch.ones(0, 2)])
    assert "no two finite values" in result.layers[0].left
    assert torch.equal(layer.running_mean, torch.zeros(2))


@pytest.mark.parametrize("masked", [False, True])
def test_one_value_is_normalized_by_all_there_was_so_far(masked):
    first, second = bn.BatchNorm1d(1), bn.BatchNorm1d(1)
    model = nn.ModuleList([first, second])
    x, one = torch.tensor([[1.0], [2.0], [4.0], [7.0]]), torch.tensor([[10.0]])
    loader = [(x, None), (one, None)]
    if masked:
        hidden = torch.tensor([[3.0], [10.0], [99.0]])
        loader[1] = hidden, torch.tensor([False, True, False])

    def forward(model, batch):
        x, mask = batch
        second(first(x, mask=mask), mask=mask)

    bn.recalibrate(model, loader, forward)
    x, every = x.double(), torch.cat([x, one]).double()
    expected = [
        (x - x.mean()) / (x.var(correction=0) + 1e-5).sqrt(),
        (one - every.mean()) / (every.var() + 1e-5).sqrt(),
    ]
    assert_population(first, every.T)
    assert_population(second, torch.cat(expected).T)


def test_pooling_is_exact_in_any_order():
    """Against Python's fractions: no float shares an error with them."""
    from fractions import Fraction

    x = torch.randn(50, 1, dtype=torch.float64) * 1e-3 + 1e3
    exact = [Fraction(v) for v in x.flatten().tolist()]
    mean = sum(exact) / len(exact)
    m2 = sum((v - mean) ** 2 for v in exact)
    for sizes in ([50], [1] * 50, [1, 9, 40], [40, 9, 1]):
        population = Population.empty(torch.zeros(1), torch.ones(1))
        for part in x.split(sizes):
            population.add(measure(part))
        found = population.moments
        # Of the values themselves half an ulp of 1e3, 2^-44, is known; each of 50 merges rounds.
        assert abs(Fraction(found.mean.item()) - mean) <= 50 * 2.0**-44
        assert abs(Fraction(found.m2.item()) / m2 - 1) <= 50 * 2.0**-44 / 1e-3
