"""Recalibrated statistics, compared with those of recorded inputs in one float64 pass."""

import copy
import math
from dataclasses import dataclass
from typing import NamedTuple

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import batchnorm as bn
from batchnorm.errors import OptionError, StatisticsError, SurgeryError
from batchnorm.surgery import Recalibration
from batchnorm.surgery.recalibration.population import Population, measure

SIZES = (7, 16, 1, 30, 2)
each_pass = pytest.mark.parametrize("passes", [1, 2, None])
each_origin = pytest.mark.parametrize("norm", ["ours", "torch"])
NORMS = {
    "ours": (bn.BatchNorm1d, bn.BatchNorm2d),
    "torch": (nn.BatchNorm1d, nn.BatchNorm2d),
}


def is_norm(module):
    return isinstance(module, nn.modules.batchnorm._BatchNorm)


class Net(nn.Module):
    """Images, two branches, a layer that is called twice, dropout before a normalization."""

    def __init__(self, norm="ours"):
        super().__init__()
        flat, image = NORMS[norm]
        self.first = nn.Conv2d(2, 4, 3, bias=False)
        self.norm = image(4)
        self.branch = nn.Sequential(nn.Conv2d(4, 4, 1), image(4), nn.ReLU(), nn.Dropout(0.5))
        self.shared = image(4)
        self.head = nn.Sequential(nn.Dropout(0.3), nn.Linear(4, 3), flat(3))

    def forward(self, x):
        x = self.norm(self.first(x)).relu()
        x = x + self.shared(self.branch(x))
        return self.head(self.shared(x.relu() + 1).mean((2, 3)))


def make(norm="ours"):
    torch.manual_seed(0)
    model = Net(norm)
    for module in model.modules():
        if is_norm(module):
            module.running_mean.normal_(3)
            module.running_var.uniform_(4, 9)
            module.num_batches_tracked.fill_(2)
            with torch.no_grad():
                module.weight.uniform_(0.5, 2)
                module.bias.normal_()
    return model


def batches(sizes=SIZES, drift=1.0):
    """Batches that are not alike, of different sizes."""
    generator = torch.Generator().manual_seed(1)
    return [
        (1 + k % 3) * torch.randn(n, 2, 6, 5, generator=generator) + drift * k
        for k, n in enumerate(sizes)
    ]


def inputs_of(model, loader, training=(), forward=None):
    """Every value that each layer is given, in float64, as (C, values)."""
    model = copy.deepcopy(model).eval()
    seen = {name: [] for name, module in model.named_modules() if is_norm(module)}
    for name in seen:
        layer = model.get_submodule(name)
        layer.momentum = 0.0

        def look(layer, args, name=name):
            x = args[0].detach().double()
            layer.training = name in training and x.numel() > x.shape[1]
            seen[name].append(x.transpose(0, 1).flatten(1))

        layer.register_forward_pre_hook(look)
    with torch.no_grad():
        for batch in loader:
            (forward or (lambda model, batch: model(batch)))(model, batch)
    return {name: torch.cat(values, 1) for name, values in seen.items() if values}


def assert_population(layer, values):
    """Mean and unbiased variance of all values, up to float32.

    The mean of a batch is rounded once, by up to 2^-24 of itself, and so is the result; behind a
    few layers that compute in another order than the recorded run, allow 2^-20. The kernels
    promise a variance within 1e-6 (`far` in csrc/forward.h), the means' rounding adds up to 2^-21
    (`NEAR` in population.py), the result's 2^-24: together less than 2^-19.
    """
    mean, var = values.mean(1), values.var(1)
    error = (layer.running_mean.double() - mean).abs()
    assert (error <= 2.0**-20 * (mean.abs() + var.sqrt())).all(), error
    error = (layer.running_var.double() - var).abs()
    assert (error <= 2.0**-19 * var).all(), error / var


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


@each_pass
@pytest.mark.parametrize("how", ["freeze", "eval"])
@each_origin
def test_a_frozen_layer_is_left_and_used_as_it_is(norm, how, passes):
    model, loader = make(norm), batches()
    layer = model.branch[1]
    if how == "freeze":
        bn.freeze(layer)
    else:
        layer.eval()
    before = {n: t.clone() for n, t in layer.state_dict().items()}
    result = bn.recalibrate(model, loader, passes=passes)
    assert all(torch.equal(layer.state_dict()[n], t) for n, t in before.items())
    row = result.layers[1]
    assert row.name == "branch.1" and row.left is not None
    assert ("frozen" in row.left) and row.values == 0
    if passes == 1:
        values = inputs_of(make(norm), loader, training=["norm", "shared", "head.2"])
        assert_population(model.head[2], values["head.2"])
    else:
        assert_population(model.norm, inputs_of(model, loader)["norm"])


def test_a_model_in_evaluation_is_measured_and_stays_in_it():
    model, other, loader = make().eval(), make(), batches()
    bn.recalibrate(model, loader)
    bn.recalibrate(other, loader)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name]), name
    assert not any(module.training for module in model.modules())


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


def test_a_model_is_measured_again_after_weights_were_averaged():
    model, loader = make(), batches()
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.5))
    for _ in range(3):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter))
        average.update_parameters(model)
    expected = inputs_of(
        average.module, loader, [n for n, m in model.named_modules() if is_norm(m)]
    )
    counted = average.n_averaged.item()
    bn.recalibrate(average, loader)
    for name, values in expected.items():
        assert_population(average.module.get_submodule(name), values)
    assert average.n_averaged == counted


def test_a_compiled_model_is_measured():
    model, other, loader = make(), make(), batches()
    graphs = []

    def backend(graph, examples):
        graphs.append(graph)
        return graph.forward

    compiled = torch.compile(model, backend=backend)
    compiled(loader[0])
    other(loader[0])
    made = len(graphs)
    bn.recalibrate(compiled, loader)
    assert len(graphs) == made, "hooks were compiled"
    bn.recalibrate(other, loader)
    for name, buffer in other.named_buffers():
        torch.testing.assert_close(model.get_buffer(name), buffer, rtol=1e-5, atol=1e-5)


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


def test_layers_that_have_nothing_to_measure_are_left_with_the_reason():
    model = nn.Sequential(
        bn.BatchNorm1d(2), bn.BatchNorm1d(2, track_running_stats=False), nn.ReLU()
    )
    model.unused = bn.BatchNorm1d(2)
    rows = bn.recalibrate(model, [torch.randn(8, 2)], lambda m, x: m[1](m[0](x))).layers
    assert [row.left is None for row in rows] == [True, False, False]
    assert "keeps no running statistics" in rows[1].left
    assert "not called" in rows[2].left
    assert torch.equal(model.unused.running_var, torch.ones(2))
    assert model.unused.num_batches_tracked == 0


def test_where_all_is_frozen_nothing_runs():
    model = make()
    bn.freeze(model)

    def never(model, batch):
        raise AssertionError

    result = bn.recalibrate(model, batches(), never, tolerance=0.1)
    assert (result.passes, result.batches, result.converged) == (0, 0, None)
    assert all("frozen" in row.left for row in result.layers)


@each_origin
def test_one_value_in_all_is_no_population(norm):
    layer = NORMS[norm][0](2)
    result = bn.recalibrate(layer, [torch.ones(1, 2), torch.ones(0, 2)])
    assert "no two finite values" in result.layers[0].left
    assert torch.equal(layer.running_mean, torch.zeros(2))


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


def test_a_forward_that_switches_to_training_does_not_disturb():
    model, other = (nn.Sequential(bn.BatchNorm1d(2), nn.BatchNorm1d(2)) for _ in range(2))
    loader = [k + torch.randn(8, 2) for k in range(4)]
    bn.recalibrate(model, loader, lambda model, x: model.train()(x))
    bn.recalibrate(other, loader)
    for name, buffer in other.named_buffers():
        assert torch.equal(model.get_buffer(name), buffer), name


@pytest.mark.parametrize("momentum", [0.1, None])
def test_momentum_stays_and_counters_grow_to_the_number_of_batches(momentum):
    fresh, old = (bn.BatchNorm1d(2, momentum=momentum) for _ in range(2))
    old.num_batches_tracked.fill_(100)
    loader = [torch.randn(8, 2) for _ in range(5)]
    for layer in (fresh, old):
        bn.recalibrate(layer, loader)
        assert layer.momentum == momentum
    assert [fresh.num_batches_tracked, old.num_batches_tracked] == [5, 100]


def test_with_momentum_none_the_next_batch_does_not_outweigh_the_population():
    layer = bn.BatchNorm1d(1, momentum=None)
    bn.recalibrate(layer, [torch.tensor([[1.0], [3.0]])] * 9)
    layer(torch.tensor([[12.0], [12.0]]))
    torch.testing.assert_close(layer.running_mean, torch.tensor([3.0]))


@pytest.mark.parametrize("poison", [math.nan, math.inf])
def test_channels_that_are_not_finite_are_left_out_and_counted(poison):
    layer, loader = bn.BatchNorm1d(2), [torch.randn(8, 2) for _ in range(4)]
    loader[2][3, 1] = poison
    row = bn.recalibrate(layer, loader).layers[0]
    assert row.nonfinite == 1 and row.values == 32
    clean = torch.cat([x for k, x in enumerate(loader) if k != 2]).double()
    for channel, values in ((0, torch.cat(loader).double()), (1, clean)):
        expected = values[:, channel].mean()
        torch.testing.assert_close(layer.running_mean[channel].double(), expected)


def test_policies_for_what_is_not_finite():
    loader = [torch.randn(8, 2), torch.full((8, 2), math.nan)]
    layer = bn.BatchNorm1d(2, nonfinite="raise")
    with pytest.raises(StatisticsError, match="found NaN or infinity in 2 of 2"):
        bn.recalibrate(layer, loader)
    assert torch.equal(layer.running_mean, torch.zeros(2))
    layer = bn.BatchNorm1d(2, nonfinite="propagate")
    bn.recalibrate(layer, loader)
    assert layer.running_mean.isnan().all()


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
    model = nn.ModuleList([bn.BatchNorm1d(1), bn.BatchNorm1d(1)])
    loader = [(torch.randn(64, 1), torch.randn(64, 1) + k) for k in range(40)]

    def forward(model, batch):
        for layer, x in zip(model, batch, strict=True):
            layer(x)

    assert bn.recalibrate(model, loader, forward, tolerance=0.2).converged is False
    assert bn.recalibrate(model[0], loader, tolerance=0.2).converged is True


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
