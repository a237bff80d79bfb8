import copy
import math
import pickle

import pytest
import torch

from batchnorm import BatchNorm1d, no_update
from batchnorm.errors import StatisticsError

from .cases import (
    BEFORE,
    CLASSES,
    assert_running,
    assert_same_state,
    batch_of,
    each_bad,
    each_class,
    known,
    moved,
    random,
    state,
)

EDGE = (
    1.5e19  # ± this has variance 2.25e38 (correction 0), 4.5e38 (correction 1); 3.4e38 is the end
)


def spoiled(bad, at=0):
    """Channels of mean 10 and 20, and between them one with a bad value."""
    x = batch_of(10.0, 0.0, 20.0)
    x[at, 1] = bad
    return x


@each_bad
@pytest.mark.parametrize("options", [{}, {"activation": "relu"}, {"momentum": None}], ids=str)
def test_skip_leaves_the_channel_alone_and_counts_it(bad, options):
    layer = known(**options)
    momentum = 1 / 6 if "momentum" in options else 0.1
    layer(spoiled(bad))
    ten, twenty = (moved(mean, 2.0, momentum) for mean in (10.0, 20.0))
    assert_running(layer, (ten[0], BEFORE[0], twenty[0]), (ten[1], BEFORE[1], twenty[1]), 6)
    assert (layer.running_mean[1].item(), layer.running_var[1].item()) == BEFORE
    assert layer.num_nonfinite.tolist() == [0, 1, 0]
    assert layer.num_nonfinite.dtype is torch.int64


@each_bad
@pytest.mark.parametrize("nonfinite", ["skip", "propagate"])
def test_output_does_not_depend_on_the_policy_of_the_statistics(bad, nonfinite):
    y = known(nonfinite=nonfinite, affine=False)(spoiled(bad))
    one = torch.tensor([-1.0, 1.0]) / (1 + 1e-5) ** 0.5
    torch.testing.assert_close(y[:, 0], one)
    torch.testing.assert_close(y[:, 2], one)
    middle = -one if math.isfinite(bad) else torch.full((2,), math.nan)
    torch.testing.assert_close(y[:, 1], middle, equal_nan=True)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("at", [0, 1], ids=["first", "last"])
def test_propagate_spoils_what_torch_spoils(bad, at):
    ours, its = known(nonfinite="propagate"), torch.nn.BatchNorm1d(3)
    its.load_state_dict(ours.state_dict())
    for layer in (ours, its):
        layer(spoiled(bad, at))
    for name, buffer in its.named_buffers():
        found = getattr(ours, name)
        assert torch.equal(found.isfinite(), buffer.isfinite())
        torch.testing.assert_close(found[buffer.isfinite()], buffer[buffer.isfinite()])
    assert ours.num_nonfinite is None


@each_bad
@pytest.mark.parametrize(
    "options",
    [{}, {"virtual_batch_size": 2}, {"degenerate": "running"}, {"momentum": None}],
    ids=str,
)
def test_raise_changes_nothing(bad, options):
    layer = known(nonfinite="raise", **options)
    before = state(layer)
    x = torch.cat([spoiled(bad), batch_of(1.0, 2.0, 3.0)])
    with pytest.raises(StatisticsError, match=r"BatchNorm1d\(3\): .* in 1 of 3 \(1\); "):
        layer(x)
    assert_same_state(layer, before)
    layer(batch_of(10.0, 10.0, 10.0))
    mean, var = moved(10.0, 2.0, 1 / 6 if "momentum" in options else 0.1)
    assert_running(layer, mean, var, 6)


@pytest.mark.parametrize(
    ("channels", "listed"),
    [
        ((0,), r"1 of 9 \(0\)"),
        ((2, 8), r"2 of 9 \(2, 8\)"),
        ((0, 1, 2, 3, 4), r"5 of 9 \(0, 1, 2, 3, 4\)"),
        ((1, 2, 3, 4, 5, 7), r"6 of 9 \(1, 2, 3, 4, 5, \.\.\.\)"),
    ],
)
def test_raise_lists_the_channels(channels, listed):
    x = random((4, 9))
    x[2, list(channels)] = math.nan
    with pytest.raises(StatisticsError, match=listed):
        BatchNorm1d(9, nonfinite="raise")(x)


def test_variance_that_overflows_by_the_correction_alone():
    x = torch.tensor([[-EDGE], [EDGE]])
    layer = known(1)
    y = layer(x)
    torch.testing.assert_close(y, torch.tensor([[-1.0], [1.0]]))
    assert layer.num_nonfinite.tolist() == [1]
    assert_running(layer, *BEFORE, 6)
    layer = known(1, momentum=1.0)
    layer(x / 2)
    assert layer.num_nonfinite.tolist() == [0]
    assert_running(layer, 0.0, 2 * float(x[1] / 2) ** 2, 6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_skip_in_other_dtypes(dtype):
    layer = known(dtype=dtype)
    layer(spoiled(math.inf).to(dtype))
    layer(spoiled(-math.inf).to(dtype))
    assert layer.num_nonfinite.tolist() == [0, 2, 0]
    assert (layer.running_mean[1].item(), layer.running_var[1].item()) == BEFORE
    assert layer.running_mean.isfinite().all()


@each_bad
def test_bad_values_behind_a_mask_do_not_count(bad):
    layer = known()
    x = torch.cat([batch_of(10.0, 10.0, 10.0), spoiled(bad)])
    layer(x, mask=torch.tensor([True, True, False, False]))
    assert_running(layer, *moved(10.0, 2.0), 6)
    assert layer.num_nonfinite.tolist() == [0, 0, 0]


@each_class
@pytest.mark.parametrize("large", [False, True])
def test_skipped_channel_of_one_virtual_batch(cls, large):
    layer = known(4, cls, virtual_batch_size=4)
    shape = CLASSES[cls]
    x = random((*shape[:-1], 2048) if large else shape)
    x[7, 2].view(-1)[2] = math.inf
    layer(x)
    assert layer.num_nonfinite.tolist() == [0, 0, 1, 0]
    assert layer.running_mean[2].item() == BEFORE[0]
    rows = x.double().movedim(1, -1).reshape(-1, 4)[:, [0, 1, 3]]
    mean, var = moved(rows.mean(0), rows.var(0))
    torch.testing.assert_close(layer.running_mean[[0, 1, 3]].double(), mean, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(layer.running_var[[0, 1, 3]].double(), var, rtol=1e-6, atol=1e-6)


def test_average_of_a_channel_is_over_the_batches_that_counted_for_it():
    layer = BatchNorm1d(2, momentum=None)
    for middles in ((1.0, 10.0), (2.0, math.nan), (6.0, 30.0), (7.0, math.inf), (9.0, 20.0)):
        layer(batch_of(*middles))
    assert_running(layer, (5.0, 20.0), 2.0, 5)
    assert layer.num_nonfinite.tolist() == [0, 2]


def test_average_of_a_channel_that_begins_badly():
    layer = BatchNorm1d(2, momentum=None)
    for middles in ((1.0, math.nan), (3.0, math.nan), (5.0, 40.0)):
        layer(batch_of(*middles))
    assert_running(layer, (3.0, 40.0), 2.0, 3)


def test_counter_is_forgotten_by_loading_and_resetting_only():
    def counted():
        layer = known()
        layer(spoiled(math.nan))
        return layer

    kept = (
        counted(),
        copy.deepcopy(counted()),
        pickle.loads(pickle.dumps(counted())),
        counted().to(torch.float64),
        counted().half(),
        counted().eval(),
        counted().to("cpu"),
    )
    for layer in kept:
        assert layer.num_nonfinite.tolist() == [0, 1, 0]
        assert layer.num_nonfinite.dtype is torch.int64
    loaded, reset = counted(), counted()
    loaded.load_state_dict(counted().state_dict(), strict=True)
    reset.reset_running_stats()
    for layer in (loaded, reset):
        assert layer.num_nonfinite.tolist() == [0, 0, 0]
    assert_running(reset, 0.0, 1.0, 0)


def test_counter_is_in_no_checkpoint():
    its, ours = torch.nn.BatchNorm1d(3), known()
    ours(spoiled(math.nan))
    assert list(ours.state_dict()) == list(its.state_dict())
    its.load_state_dict(ours.state_dict(), strict=True)
    assert torch.equal(its.running_mean, ours.running_mean)
    ours.load_state_dict(its.state_dict(), strict=True)
    assert "num_nonfinite" in dict(ours.named_buffers())


@pytest.mark.parametrize(
    "options", [{"nonfinite": "propagate"}, {"nonfinite": "raise"}, {"track_running_stats": False}]
)
def test_counter_exists_where_something_is_skipped_only(options):
    layer = BatchNorm1d(3, **options)
    assert layer.num_nonfinite is None
    assert "num_nonfinite" not in dict(layer.named_buffers())
    layer.set_options(nonfinite="skip")
    assert (layer.num_nonfinite is None) == (not layer.track_running_stats)


def test_skipping_costs_no_gradient():
    x = random((6, 2))
    x[0, 1] = math.inf
    whole, alone = (t.clone().requires_grad_() for t in (x, x[:, :1]))
    BatchNorm1d(2)(whole)[:, 0].pow(3).sum().backward()
    BatchNorm1d(1)(alone)[:, 0].pow(3).sum().backward()
    torch.testing.assert_close(whole.grad[:, :1], alone.grad)


def test_nothing_is_counted_inside_no_update():
    layer = known()
    before = state(layer)
    with no_update(layer):
        layer(spoiled(math.nan))
    assert_same_state(layer, before)


def test_single_value_that_is_not_finite_moves_nothing():
    for nonfinite in ("skip", "propagate", "raise"):
        layer = known(1, degenerate="running", nonfinite=nonfinite)
        before = state(layer)
        assert layer(torch.tensor([[math.nan]])).isnan().all()
        assert_same_state(layer, before)


def test_raise_is_about_updates_only():
    layer = known(nonfinite="raise")
    before = state(layer)
    with no_update(layer):
        layer(spoiled(math.nan))
    layer.eval()(spoiled(math.nan))
    BatchNorm1d(3, nonfinite="raise", track_running_stats=False)(spoiled(math.nan))
    assert_same_state(layer, before)
