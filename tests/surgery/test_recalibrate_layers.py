"""Which layers `recalibrate` measures, and what it does with their options and counters."""

import math

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import batchnorm as bn
from batchnorm.errors import ShapeError, StatisticsError

from .populations import (
    assert_population,
    batches,
    each_origin,
    each_pass,
    inputs_of,
    is_norm,
    make,
)


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


def test_only_batches_in_which_a_layer_ran_are_counted():
    model = nn.ModuleList([bn.BatchNorm1d(1), bn.BatchNorm1d(1)])

    def forward(model, batch):
        for k, x in batch:
            model[k](x)
            model[k](x)  # twice in one batch

    x = torch.randn(4, 1)
    loader = [[(0, x), (1, x)], [(0, x)], [(0, x)], [(1, x)]]
    result = bn.recalibrate(model, loader, forward)
    assert [layer.batches for layer in result.layers] == [3, 2]
    assert [int(layer.num_batches_tracked) for layer in model] == [3, 2]


@each_pass
def test_buffers_stay_the_same_tensors(passes):
    """Who holds them, such as a data-parallel wrapper, has the new ones."""
    model = make()
    before = {name: (id(t), t.data_ptr()) for name, t in model.named_buffers()}
    bn.recalibrate(model, batches(), passes=passes)
    assert {name: (id(t), t.data_ptr()) for name, t in model.named_buffers()} == before


def test_what_is_wrong_with_an_input_the_layer_says():
    with pytest.raises(ShapeError, match="expected 3 channels at axis 1, found 2"):
        bn.recalibrate(bn.BatchNorm1d(3), [torch.randn(4, 2)])
