import copy

import pytest
import torch
from torch import nn

from batchnorm import BatchNorm1d, LazyBatchNorm1d, accumulate, no_update
from batchnorm.errors import StatisticsError, SurgeryError

from .cases import assert_running, assert_same_state, known, moved, random, state

PARTS = (2, 3, 11)


@pytest.mark.parametrize("momentum", [0.1, 1.0, None])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(
    "options", [{}, {"virtual_batch_size": 2}, {"activation": "relu"}], ids=str
)
def test_unequal_parts_are_pooled_by_their_counts(momentum, dtype, options):
    layer = known(momentum=momentum, dtype=dtype, **options)
    before = state(layer)
    x = random((16, 3, 2), dtype=dtype)
    x[:2] += 5
    with accumulate(layer):
        for part in x.split(PARTS):
            layer(part)
            assert_same_state(layer, before)
    rows = x.double().movedim(1, -1).reshape(-1, 3)
    weight = 1 / 6 if momentum is None else momentum
    assert_running(layer, *moved(rows.mean(0), rows.var(0), weight), 6)


def test_pooled_mean_and_variance_by_hand():
    """{1, 3} has mean 2 and m2 2; {5, 7, 9} has mean 7 and m2 8; δ² n m / (n + m) = 25·6/5 = 30."""
    layer = known(1, momentum=1.0)
    with accumulate(layer):
        layer(torch.tensor([[1.0], [3.0]]))
        layer(torch.tensor([[5.0], [7.0], [9.0]]))
    assert_running(layer, 5.0, (2 + 8 + 30) / 4, 6)


def test_each_part_is_normalized_by_itself():
    layer = BatchNorm1d(1, eps=1e-12)
    with accumulate(layer):
        for part in (torch.tensor([[1.0], [3.0]]), torch.tensor([[50.0], [70.0]])):
            torch.testing.assert_close(layer(part), torch.tensor([[-1.0], [1.0]]))


@pytest.mark.parametrize("virtual_batch_size", [None, 2])
def test_masked_parts_are_pooled_by_what_counts(virtual_batch_size):
    layer = known(3, virtual_batch_size=virtual_batch_size)
    x = random((12, 3, 2))
    mask = torch.tensor([True, True, False, True]).repeat(3)
    x[~mask] = torch.nan
    with accumulate(layer):
        for part, keep in zip(x.split((4, 8)), mask.split((4, 8)), strict=True):
            layer(part, mask=keep)
        layer(x[:4], mask=torch.zeros(4, dtype=torch.bool))
    rows = x[mask].double().movedim(1, -1).reshape(-1, 3)
    assert_running(layer, *moved(rows.mean(0), rows.var(0)), 6)


@pytest.mark.parametrize("scale", [1.0, 1e-3, 1000.0])
def test_weighted_parts_are_pooled_by_their_weights(scale):
    """Weights 2, 1 of 1, 4 and 1, 2, 3 of 6, 8, 9: Σw 9, Σwx/Σw 61/9, effective 81/19."""
    layer = known(1, momentum=1.0)
    parts = {(1.0, 4.0): (2.0, 1.0), (6.0, 8.0, 9.0): (1.0, 2.0, 3.0)}
    values, weights = (
        torch.tensor([v for part in which for v in part], dtype=torch.float64)
        for which in (parts.keys(), parts.values())
    )
    with accumulate(layer):
        for x, w in parts.items():
            layer(torch.tensor(x)[:, None], sample_weight=scale * torch.tensor(w))
    mean = (weights * values).sum() / 9
    m2 = (weights * (values - mean) ** 2).sum()
    assert_running(layer, mean, m2 / 9 * (81 / 19) / (81 / 19 - 1), 6)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, 1e30])
@pytest.mark.parametrize("momentum", [1.0, None])
def test_bad_channel_of_a_part_is_left_out_of_the_pool(bad, momentum):
    layer = BatchNorm1d(2, momentum=momentum)
    x = random((12, 2))
    x[5, 1] = bad
    x[9, 1] = bad
    with accumulate(layer):
        for part in x.split(4):
            layer(part)
    assert layer.num_nonfinite.tolist() == [0, 0]
    good = x.double()
    assert_running(
        layer,
        torch.stack([good[:, 0].mean(), good[:4, 1].mean()]),
        torch.stack([good[:, 0].var(), good[:4, 1].var()]),
        1,
    )


def test_channel_that_is_bad_in_every_part_stays_and_is_counted_once():
    layer = known(2)
    x = random((8, 2))
    x[::4, 1] = torch.nan
    with accumulate(layer):
        for part in x.split(4):
            layer(part)
    assert layer.running_mean[1].item() == 3.0
    assert layer.running_var[1].item() == 7.0
    assert layer.num_nonfinite.tolist() == [0, 1]
    assert layer.num_batches_tracked == 6


def test_average_over_blocks_of_a_channel_with_bad_parts():
    """Every block that says something of a channel is one batch of its average."""
    layer = BatchNorm1d(2, momentum=None)
    ten, forty = torch.tensor([[9.0, 9.0], [11.0, 11.0]]), torch.tensor([[39.0] * 2, [41.0] * 2])
    bad = ten.clone()
    bad[0, 1] = torch.nan
    for block in ((ten, bad, bad), (bad, bad), (forty,)):
        with accumulate(layer):
            for part in block:
                layer(part)
    assert_running(layer, (20.0, 25.0), ((6 / 5 + 4 / 3 + 2) / 3, 2.0), 3)
    assert layer.num_nonfinite.tolist() == [0, 1]


def test_pooled_variance_that_overflows_is_skipped_and_counted():
    layer = known(1)
    with accumulate(layer):
        for far in (-1e25, 1e25):
            layer(torch.tensor([[far], [far * (1 + 2**-20)]]))
    assert_running(layer, 3.0, 7.0)
    assert layer.num_nonfinite.tolist() == [1]


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, 1e30])
def test_raise_inside_a_block_discards_it(bad):
    layer = known(nonfinite="raise")
    before = state(layer)
    x = random((4, 3))
    with pytest.raises(StatisticsError, match=r"1 of 3 \(2\)"), accumulate(layer):
        layer(x.clone())
        x[1, 2] = bad
        layer(x)
    assert_same_state(layer, before)


@pytest.mark.parametrize("momentum", [1.0, None])
def test_single_values_become_a_batch(momentum):
    layer = BatchNorm1d(1, degenerate="running", momentum=momentum)
    for block in ((1.0, 3.0, 8.0), (5.0, 9.0)):
        with accumulate(layer):
            for value in block:
                layer(torch.tensor([[value]]))
    mean, var = (7.0, 8.0) if momentum else ((4 + 7) / 2, (13 + 8) / 2)
    assert_running(layer, mean, var, 2)


def test_one_single_value_says_nothing():
    layer = known(1, degenerate="running")
    before = state(layer)
    with accumulate(layer):
        layer(torch.tensor([[5.0]]))
    assert_same_state(layer, before)


@pytest.mark.parametrize("forward", ["no forward", "an empty batch", "evaluation", "no_update"])
def test_block_that_saw_nothing_changes_nothing(forward):
    layer = known()
    before = state(layer)
    with accumulate(layer):
        if forward == "an empty batch":
            layer(torch.zeros(0, 3))
        elif forward == "evaluation":
            layer.eval()(random((4, 3)))
            layer.train()
        elif forward == "no_update":
            with no_update(layer):
                layer(random((4, 3)))
    assert_same_state(layer, before)


def test_shared_layer_pools_all_its_calls_and_is_updated_once():
    shared = known()
    model = nn.Sequential(shared, nn.Tanh(), shared)
    x = random((6, 3))
    seen = [x, torch.tanh(copy.deepcopy(shared)(x)).detach()]
    with accumulate(model):
        model(x)
    rows = torch.cat(seen).double()
    assert_running(shared, *moved(rows.mean(0), rows.var(0)), 6)


@pytest.mark.parametrize("parts", [1, 2, 8, 16])
@pytest.mark.parametrize("offset", [0.0, 100.0])
def test_micro_batches_move_the_statistics_as_the_batch_does(parts, offset):
    """Merging in float32 adds at most 1 ulp of the largest mean, or of its variance, a part."""
    layer, whole = known(3), known(3)
    x = random((64, 3), offset=offset)
    with accumulate(layer):
        for part in x.chunk(parts):
            layer(part)
    whole(x)
    ulp = torch.finfo(torch.float32).eps * (1 + parts)
    torch.testing.assert_close(layer.running_mean, whole.running_mean, rtol=ulp, atol=0.0)
    torch.testing.assert_close(layer.running_var, whole.running_var, rtol=4 * ulp, atol=0.0)
    assert layer.num_batches_tracked == whole.num_batches_tracked


@pytest.mark.parametrize("parts", [8, 32])
def test_micro_batches_do_not_make_the_statistics_noisier(parts):
    """Without a block, the running mean's variance is about `parts` times that of one update."""
    pooled, whole, apart = (BatchNorm1d(256) for _ in range(3))
    for step in range(40):
        x = random((64, 256), seed=step, scale=1.0, offset=0.0)
        whole(x)
        with accumulate(pooled):
            for part in x.chunk(parts):
                pooled(part)
        for part in x.chunk(parts):
            apart(part)
    torch.testing.assert_close(pooled.running_mean, whole.running_mean, rtol=0.0, atol=1e-6)
    # m/(2 − m)/64 after many steps; 256 channels estimate it within 30 % (3.4 sigma).
    noise = whole.running_mean.square().mean().item() / (0.1 / 1.9 / 64)
    assert 0.7 < noise < 1.3
    assert apart.running_mean.square().mean().item() / (0.1 / 1.9 / 64) > 0.7 * parts


@pytest.mark.parametrize("make", [nn.BatchNorm1d, nn.SyncBatchNorm])
def test_accumulate_names_a_layer_of_torch_in_training(make):
    model = nn.ModuleDict({"body": nn.Sequential(known(2), make(2))})
    with (
        pytest.raises(SurgeryError, match=rf"{make.__name__} at 'body\.1' .* in training mode"),
        accumulate(model),
    ):
        raise AssertionError("the block must not be entered")
    assert model["body"][0].pools == []


def test_accumulate_accepts_layers_of_torch_that_learn_nothing():
    frozen = nn.BatchNorm1d(3).eval()
    untracked = nn.BatchNorm1d(3, track_running_stats=False)
    layer = known()
    x = random((6, 3))
    with accumulate(nn.Sequential(frozen, untracked, layer)):
        layer(x)
    assert_running(layer, *moved(x.double().mean(0), x.double().var(0)), 6)


def test_lazy_layer_without_channels_is_refused():
    model = nn.Sequential(nn.Identity(), LazyBatchNorm1d())
    with pytest.raises(SurgeryError, match="LazyBatchNorm1d at '1'"), accumulate(model):
        raise AssertionError("the block must not be entered")
    model(random((6, 3)))
    with accumulate(model):
        model(random((6, 3)))
    assert model[1].num_batches_tracked == 2


@pytest.mark.parametrize("layer", [nn.BatchNorm1d(2), LazyBatchNorm1d()])
def test_refused_layer_alone_has_no_name(layer):
    with pytest.raises(SurgeryError) as caught, accumulate(layer):
        raise AssertionError("the block must not be entered")
    assert "''" not in str(caught.value)
