import copy
import pickle

import pytest
import torch

from batchnorm import BatchNorm1d, Renorm, accumulate, no_update, reference
from batchnorm.errors import OptionError, StatisticsError

from .cases import (
    CLASSES,
    assert_running,
    assert_same_but_rounding,
    assert_same_state,
    each_class,
    known,
    moved,
    random,
    state,
)

AT_ONCE = {"warmup_steps": 0, "ramp_steps": 0}
NO_LIMITS = Renorm(1e9, 1e9, **AT_ONCE)

SCHEDULES = [
    # warm-up of 10, then r over 4 steps and d over 2
    *[
        (Renorm(3.0, 5.0, 10, (4, 2)), step, limits)
        for step, limits in {
            0: (1.0, 0.0),
            9: (1.0, 0.0),
            10: (1.0, 0.0),
            11: (1.5, 2.5),
            12: (2.0, 5.0),
            13: (2.5, 5.0),
            14: (3.0, 5.0),
            15: (3.0, 5.0),
            10**12: (3.0, 5.0),
        }.items()
    ],
    # one number for both
    (Renorm(2.0, 8.0, 0, 4), 0, (1.0, 0.0)),
    (Renorm(2.0, 8.0, 0, 4), 1, (1.25, 2.0)),
    (Renorm(2.0, 8.0, 0, 4), 4, (2.0, 8.0)),
    # no ramp: at once
    (Renorm(2.0, 8.0, 3, 0), 3, (1.0, 0.0)),
    (Renorm(2.0, 8.0, 3, 0), 4, (2.0, 8.0)),
    (Renorm(2.0, 8.0, 3, (0, 2)), 4, (2.0, 4.0)),
    (Renorm(2.0, 8.0, 3, (2, 0)), 4, (1.5, 8.0)),
    # the paper's
    (Renorm(), 5_000, (1.0, 0.0)),
    (Renorm(), 15_000, (1 + 2 * 10_000 / 35_000, 2.5)),
    (Renorm(), 25_000, (1 + 2 * 20_000 / 35_000, 5.0)),
    (Renorm(), 40_000, (3.0, 5.0)),
    # limits that limit nothing, and everything
    (Renorm(1.0, 0.0, 0, 0), 9, (1.0, 0.0)),
]


@pytest.mark.parametrize(("renorm", "step", "limits"), SCHEDULES)
def test_limits_of_a_step(renorm, step, limits):
    found = renorm.limits(torch.tensor(step))
    torch.testing.assert_close(torch.stack(found), torch.tensor(limits))
    ramps = renorm.warmup_steps, renorm.ramp_steps
    specified = reference.renorm_limits(step, renorm.r_max, renorm.d_max, *ramps)
    torch.testing.assert_close(torch.tensor(specified), torch.tensor(limits))


@pytest.mark.parametrize(
    "wrong",
    [
        {"r_max": 0.9},
        {"r_max": float("nan")},
        {"d_max": -0.1},
        {"d_max": float("nan")},
        {"warmup_steps": -1},
        {"warmup_steps": 1.5},
        {"warmup_steps": True},
        {"ramp_steps": -1},
        {"ramp_steps": 2.0},
        {"ramp_steps": (1, -1)},
        {"ramp_steps": (1, 2, 3)},
        {"ramp_steps": (1,)},
        {"ramp_steps": None},
    ],
    ids=str,
)
def test_wrong_values_are_refused_by_name(wrong):
    with pytest.raises(OptionError, match=f"expected {next(iter(wrong))} of Renorm to be .* found"):
        Renorm(**wrong)


def test_renorm_is_a_value():
    assert (
        Renorm(2.0, 1.0)
        == Renorm(r_max=2.0, d_max=1.0)
        == pickle.loads(pickle.dumps(Renorm(2.0, 1.0)))
    )
    with pytest.raises(AttributeError):
        Renorm().r_max = 2.0


@pytest.mark.parametrize("renorm", [True, (3.0, 5.0), {"r_max": 3.0}, Renorm])
def test_something_else_than_a_renorm_is_refused(renorm):
    with pytest.raises(OptionError, match=r"batchnorm\.Renorm"):
        BatchNorm1d(3, renorm=renorm)


def test_renorm_needs_running_statistics():
    with pytest.raises(OptionError, match="track_running_stats=True"):
        BatchNorm1d(3, renorm=Renorm(), track_running_stats=False)


LIMITS_BY_HAND = [
    # batch: mean 11, std 4; running: mean 3, std 2; so r would be 2 and d would be 4
    ((1e9, 1e9), 2.0, 4.0),
    ((2.0, 4.0), 2.0, 4.0),
    ((1.5, 9.0), 1.5, 4.0),
    ((9.0, 0.25), 2.0, 0.25),
    ((1.0, 0.0), 1.0, 0.0),
]


@pytest.mark.parametrize(("limits", "r", "d"), LIMITS_BY_HAND)
@pytest.mark.parametrize("turned", [False, True], ids=["above", "below"])
def test_correction_by_hand(limits, r, d, turned):
    layer = known(1, eps=1e-12, renorm=Renorm(*limits, **AT_ONCE))
    layer.running_var.fill_(4.0)
    with torch.no_grad():
        layer.weight.fill_(3.0), layer.bias.fill_(-1.0)
    x = torch.tensor([[7.0], [15.0]])
    if turned:  # running mean 11 + 8, so d is −4; running std 8, so r is 1/2 and d −1
        layer.running_mean.fill_(19.0), layer.running_var.fill_(64.0)
        r, d = max(0.5, 1 / limits[0]), -min(1.0, limits[1])
    y = layer(x)
    torch.testing.assert_close(y, torch.tensor([[-r + d], [r + d]]) * 3 - 1)


def test_correction_is_a_constant_of_the_gradient():
    """So the gradient is that of batch normalization with the weight times r."""
    layer = known(1, renorm=Renorm(1.5, 0.5, **AT_ONCE))
    plain = known(1)
    with torch.no_grad():
        plain.weight.fill_(1.5)
        plain.bias.fill_(0.5)
    x = 40 * random((6, 1)) + 90
    inputs = [x.clone().requires_grad_() for _ in range(2)]
    for made, leaf in zip((layer, plain), inputs, strict=True):
        made(leaf).pow(3).sum().backward()
    torch.testing.assert_close(*(leaf.grad for leaf in inputs))
    torch.testing.assert_close(layer.bias.grad, plain.bias.grad)
    torch.testing.assert_close(layer.weight.grad, 1.5 * plain.weight.grad + 0.5 * plain.bias.grad)


@each_class
@pytest.mark.parametrize(
    "options", [{}, {"activation": "silu"}, {"virtual_batch_size": 3}], ids=str
)
def test_without_limits_training_is_evaluation(cls, options):
    layer = known(4, cls, renorm=NO_LIMITS, **options)
    x, residual = random(CLASSES[cls]), random(CLASSES[cls], seed=1)
    expected = copy.deepcopy(layer).eval()(x, residual)
    torch.testing.assert_close(layer(x, residual), expected)


def test_without_limits_weights_and_masks_change_the_running_statistics_only():
    layer = known(4, renorm=NO_LIMITS)
    x = random((12, 4, 3))
    weight = torch.rand(12, generator=torch.Generator().manual_seed(0)) + 0.1
    mask = torch.arange(12) % 3 > 0
    expected = copy.deepcopy(layer).eval()(x, mask=mask)
    torch.testing.assert_close(layer(x, mask=mask, sample_weight=weight), expected)
    moments = reference.moments(x, reference.weights(x, mask, weight))
    assert_running(layer, *moved(moments[1], reference.var(moments, 1)), 6)


@each_class
def test_in_the_warm_up_it_is_batch_normalization(cls):
    layer, plain = known(4, cls, renorm=Renorm(warmup_steps=6)), known(4, cls)
    for seed in range(2):  # batches 5 and 6
        x = random(CLASSES[cls], seed=seed)
        torch.testing.assert_close(layer(x), plain(x))
    assert_same_but_rounding(layer, state(plain))
    assert not torch.allclose(layer(x), plain(x), atol=1e-5)


def test_running_statistics_are_those_of_the_batch_as_without():
    layer, plain = known(renorm=NO_LIMITS), known()
    for seed in range(3):
        layer(random((6, 3), seed=seed)), plain(random((6, 3), seed=seed))
    assert_same_but_rounding(layer, state(plain))


RAMP = Renorm(3.0, 5.0, warmup_steps=2, ramp_steps=(6, 4))


def trained(layer, steps):
    return [layer(100 * random((6, 3), seed=step) + 900).detach() for step in steps]


@pytest.mark.parametrize("saved_at", [0, 2, 4, 8])
@pytest.mark.parametrize("through", ["ours", "torch", "pickle"])
def test_schedule_goes_on_from_a_checkpoint(saved_at, through):
    first, whole = BatchNorm1d(3, renorm=RAMP), BatchNorm1d(3, renorm=RAMP)
    expected = trained(whole, range(12))
    trained(first, range(saved_at))
    if through == "pickle":
        second = pickle.loads(pickle.dumps(first))
    else:
        its = torch.nn.BatchNorm1d(3) if through == "torch" else BatchNorm1d(3)
        its.load_state_dict(first.state_dict(), strict=True)
        second = BatchNorm1d(3, renorm=RAMP)
        second.load_state_dict(its.state_dict(), strict=True)
    found = trained(second, range(saved_at, 12))
    assert all(torch.equal(*pair) for pair in zip(found, expected[saved_at:], strict=True))
    assert_same_state(second, state(whole))


def test_every_step_of_the_schedule_is_what_is_specified():
    layer = BatchNorm1d(3, renorm=RAMP, dtype=torch.float64)
    for step in range(10):
        x = (100 * random((6, 3), seed=step) + 900).double()
        running = layer.running_mean.clone(), layer.running_var.clone()
        limits = reference.renorm_limits(step, 3.0, 5.0, 2, (6, 4))
        expected = reference.step(x, x, running, limits=limits)
        torch.testing.assert_close(layer(x), expected.output, rtol=1e-12, atol=1e-12)


def test_resetting_the_statistics_begins_the_schedule_again():
    layer = BatchNorm1d(3, renorm=RAMP)
    expected = trained(layer, range(10))
    layer.reset_running_stats()
    assert all(torch.equal(*pair) for pair in zip(trained(layer, range(10)), expected, strict=True))


@pytest.mark.parametrize("context", [no_update, accumulate])
def test_schedule_stands_still_inside_a_block(context):
    layer = BatchNorm1d(3, renorm=RAMP)
    trained(layer, range(4))
    with context(layer):
        one, two = trained(layer, [4, 4])
    assert torch.equal(one, two)
    assert layer.num_batches_tracked == (5 if context is accumulate else 4)


def test_chunks_are_corrected_each_by_its_own_statistics():
    layer = known(1, eps=1e-12, virtual_batch_size=2, renorm=Renorm(1.5, 1.0, **AT_ONCE))
    layer.running_var.fill_(4.0)
    x = torch.tensor([[1.0], [7.0], [0.0], [2.0]])  # mean 4, std 3; mean 1, std 1
    expected = torch.tensor([[-1.5 + 0.5], [1.5 + 0.5], [-2 / 3 - 1.0], [2 / 3 - 1.0]])
    torch.testing.assert_close(layer(x), expected)


def test_single_value_has_no_correction():
    layer = known(1, degenerate="running", renorm=Renorm(1.5, 0.5, **AT_ONCE))
    before = state(layer)
    x = torch.tensor([[10.0]])
    torch.testing.assert_close(layer(x), (x - 3) / (7 + 1e-5) ** 0.5)
    assert_same_state(layer, before)
    with pytest.raises(StatisticsError):
        known(1, renorm=NO_LIMITS)(x)


@pytest.mark.parametrize("nonfinite", ["skip", "propagate"])
def test_channel_that_is_not_finite_does_not_spoil_the_others(nonfinite):
    layer = known(2, nonfinite=nonfinite, renorm=Renorm(1.5, 0.5, **AT_ONCE))
    alone = known(1, renorm=Renorm(1.5, 0.5, **AT_ONCE))
    x = random((6, 2))
    x[2, 1] = torch.inf
    torch.testing.assert_close(layer(x)[:, :1], alone(x[:, :1]))
    torch.testing.assert_close(layer.running_mean[:1], alone.running_mean)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_correction_of_a_half_layer_is_computed_in_float32(dtype):
    layer, wide = (known(3, renorm=Renorm(1.5, 0.5, **AT_ONCE)) for _ in range(2))
    layer.to(dtype)
    x = (30 * random((8, 3))).to(dtype)
    y = layer(x)
    assert y.dtype is dtype
    torch.testing.assert_close(y.float(), wide(x.float()), rtol=torch.finfo(dtype).eps, atol=1e-3)
    torch.testing.assert_close(layer.running_mean, wide.running_mean)
