"""Hostile values in a channel, and what is said about a batch, whatever counts in it."""

import pytest
import torch

from batchnorm import compose, reference, shapes
from batchnorm.functional import batch_norm
from batchnorm.moments import Estimate
from batchnorm.ops.affine import Affine
from cases import DTYPES, ROUTES, TRITON, take_route

EPS, NAN, INF = 1e-3, float("nan"), float("inf")


@pytest.fixture(params=[*ROUTES, TRITON[0]])
def route(request, monkeypatch):
    take_route(monkeypatch, request.param)


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def uniform(*shape, seed=1):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def some(x, *names):
    """Options for x: half a mask, weights with some zeros among them, virtual batches."""
    positions = x.shape[0], *x.shape[2:]
    options = {
        "mask": uniform(*positions, seed=2) < 0.7,
        "sample_weight": (uniform(*positions) - 0.2).clamp(min=0),
        "virtual_batch_size": x.shape[0] // 2,
        "residual": randn(*x.shape, seed=3).to(x.dtype),
    }
    return {name: options[name] for name in names}


COUNTED = [(), ("mask",), ("sample_weight",), ("mask", "sample_weight")]
COUNTED = COUNTED + [(*names, "virtual_batch_size") for names in COUNTED]
each_count = pytest.mark.parametrize("names", COUNTED, ids=lambda names: "-".join(names) or "all")


def exactly(x, options, **more):
    """Output, running mean and variance for momentum 1."""
    channels = x.shape[1]
    running = torch.zeros(channels), torch.ones(channels)
    result = reference.step(x, torch.zeros(x.shape), running, momentum=1.0, **options, **more)
    return result.output, result.running_mean, result.running_var


def ours(x, options, **more):
    wide = torch.promote_types(x.dtype, torch.float32)
    running = torch.zeros(x.shape[1], dtype=wide), torch.ones(x.shape[1], dtype=wide)
    return batch_norm(x, *running, training=True, momentum=1.0, **options, **more), *running


@pytest.mark.usefixtures("route")
@each_count
@pytest.mark.parametrize("shape", [(64, 3), (8, 3, 4, 4)], ids=str)
def test_a_small_spread_survives_a_large_mean(shape, names):
    """Where torch, in float32, is off by a tenth of a standard deviation."""
    x = (1e6 + randn(*shape).double()).float()
    options = some(x, *names)
    y, mean, var = ours(x, options, eps=EPS)
    exact_y, exact_mean, exact_var = exactly(x, options, eps=EPS)
    torch.testing.assert_close(y.double(), exact_y, rtol=0, atol=2e-5)
    torch.testing.assert_close(mean.double(), exact_mean, rtol=1e-7, atol=0)
    torch.testing.assert_close(var.double(), exact_var, rtol=1e-5, atol=0)


@pytest.mark.usefixtures("route")
@each_count
@pytest.mark.parametrize("at", [0, -1], ids=["first", "last"])
@pytest.mark.parametrize("shape", [(2**16, 2), (16, 2, 64, 64)], ids=str)
def test_one_enormous_value_costs_the_others_no_precision(shape, at, names):
    """Shifting a channel by such a value would be worse than not shifting it."""
    x = randn(*shape)
    x[(at, 0, *(at,) * (x.dim() - 2))] = 1e6
    options = some(x, *names)
    for positions in ("mask", "sample_weight"):
        if positions in options:
            options[positions][(at, *(at,) * (x.dim() - 2))] = 1
    error = ours(x, options, eps=EPS)[0] - exactly(x, options, eps=EPS)[0]
    torch_error = torch.nn.functional.batch_norm(x, None, None, training=True, eps=EPS)
    torch_error = torch_error - reference.forward_train(x, None, None, EPS)[0]
    error[x == 1e6] = torch_error[x == 1e6] = 0
    assert float(error.abs().max()) <= 2 * float(torch_error.abs().max()) + 1e-6


@pytest.mark.usefixtures("route")
@each_count
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(16, 2), (6, 2, 5, 5)], ids=str)
def test_a_constant_channel_becomes_exactly_the_bias(shape, dtype, names):
    bias = torch.tensor([0.1, -7.3]).to(dtype)
    x = torch.full(shape, 0.1, dtype=dtype)
    options = some(x, *names)
    y, mean, var = ours(x, options, bias=bias)
    expected = shapes.as_channels(bias, len(shape)).expand(shape).clone()
    if "mask" in options:
        expected.movedim(1, -1)[~options["mask"]] = 0
    assert torch.equal(y, expected)
    assert torch.equal(mean, x.flatten()[:2].to(mean.dtype))
    assert torch.equal(var, torch.zeros_like(var))


@pytest.mark.usefixtures("route")
@each_count
@pytest.mark.parametrize("size", [1e30, -1e37])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", [(32, 3), (8, 3, 9)], ids=str)
def test_values_whose_squares_overflow_are_normalized(shape, dtype, size, names):
    x = randn(*shape).to(dtype)
    x[:, 1] *= size
    options = some(x, *names, "residual")
    y, mean, var = ours(x, options, eps=EPS, activation="gelu")
    exact_y, exact_mean, exact_var = exactly(x, options, eps=EPS, activation="gelu")
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(y.double(), exact_y, rtol=4 * eps, atol=16 * eps)
    torch.testing.assert_close(mean.double(), exact_mean, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(var[::2].double(), exact_var[::2], rtol=1e-5, atol=0)


@pytest.mark.usefixtures("route")
@each_count
def test_values_whose_squares_overflow_have_a_gradient(names):
    x = randn(32, 3)
    x[:, 1] *= 1e30
    options, grad_y = some(x, *names, "residual"), randn(32, 3, seed=5)
    leaf = x.clone().requires_grad_()
    batch_norm(leaf, None, None, training=True, eps=EPS, **options).backward(grad_y)
    running = torch.zeros(3), torch.ones(3)
    exact = reference.step(x, grad_y, running, eps=EPS, **options).grad_input
    scale = torch.tensor([1.0, 1e30, 1.0])
    torch.testing.assert_close(leaf.grad.double() * scale, exact * scale, rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("route")
@each_count
@pytest.mark.parametrize("bad", [NAN, INF, -INF, 3e38])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_a_bad_value_leaves_the_other_channels_bit_for_bit(dtype, bad, names):
    """But for rounding, where 3e38 makes float64 compute all of them."""
    x = randn(12, 3, 7).to(dtype)
    dirty = x.clone()
    dirty[3, 1] = bad
    options, grad_y = some(x, *names, "residual"), randn(12, 3, 7, seed=5).to(dtype)
    if "mask" in options:
        options["mask"][3] = True
    results = []
    for tensor in (x, dirty):
        leaf = tensor.clone().requires_grad_()
        y, mean, var = ours(leaf, options, activation="silu")
        y.backward(grad_y)
        results.append([t[:, ::2] for t in (y.detach(), leaf.grad)] + [mean[::2], var[::2]])
    ulp = torch.finfo(dtype).eps if bad == 3e38 else 0.0
    torch.testing.assert_close(*results, rtol=4 * ulp, atol=16 * ulp)


@pytest.mark.usefixtures("route")
@pytest.mark.parametrize("size", [None, 4])
@pytest.mark.parametrize("bad", [NAN, INF])
def test_a_bad_value_stays_in_its_channel_and_its_virtual_batch(bad, size):
    x = randn(8, 3, 2)
    dirty = x.clone()
    dirty[1, 1, 0] = bad
    clean, spoiled = (
        batch_norm(t, None, None, training=True, virtual_batch_size=size) for t in (x, dirty)
    )
    touched = torch.zeros(8, 3, 2, dtype=torch.bool)
    touched[: size or 8, 1] = True
    assert spoiled[touched].isnan().all()
    assert torch.equal(spoiled[~touched], clean[~touched])


def trained(x, names=(), running=None, **options):
    chosen = some(x, *names)
    size = chosen.pop("virtual_batch_size", None)
    made = compose.options(EPS, running, size, **options)
    return compose.train(x, Affine(), made, running, **chosen)


@pytest.mark.usefixtures("route")
@each_count
@pytest.mark.parametrize("shape", [(32, 3), (8, 3, 9)], ids=str)
def test_what_is_said_about_a_batch_is_the_moments_of_what_counts(shape, names):
    x = randn(*shape).double()
    _, batch = trained(x, names)
    options = {name: value for name, value in some(x, *names).items() if "virtual" not in name}
    exact = reference.moments(x, reference.weights(x, **options))
    count, mean, _, effective = exact
    torch.testing.assert_close(batch.mean, mean, rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(batch.var, reference.var(exact, 1), rtol=1e-12, atol=0)
    for said, true in ((batch.count, count), (batch.effective, effective)):
        torch.testing.assert_close(torch.as_tensor(said).double().expand(3), true)


@pytest.mark.parametrize("names", COUNTED[:4], ids=str)
@pytest.mark.parametrize("bad", [None, NAN, INF])
def test_whether_a_batch_is_finite_is_known_where_it_can_be_read(bad, names):
    x = randn(8, 3, 9)
    if bad is not None:
        x[2, 1] = bad
    _, batch = trained(x, names)
    assert batch.finite is (bad is None)
    assert (batch.mean.isfinite() & batch.var.isfinite()).tolist() == [True, bad is None, True]


def test_nothing_is_said_about_an_empty_batch():
    y, batch = trained(torch.empty(0, 3))
    assert y.shape == (0, 3)
    assert batch is None


def test_one_value_has_a_mean_and_no_variance():
    x = torch.tensor([[4.0, 7.0]])
    running = torch.zeros(2), torch.ones(2)
    _, batch = trained(x, running=running, degenerate="running")
    assert isinstance(batch, Estimate)
    assert batch.mean.tolist() == [4, 7]
    assert batch.known is False
    assert (batch.count, batch.effective) == (1, 1)
