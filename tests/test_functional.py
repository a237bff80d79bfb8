import itertools

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from batchnorm import reference, shapes
from batchnorm.errors import OptionError, ShapeError, StatisticsError
from batchnorm.functional import batch_norm, update_running_
from batchnorm.moments import Estimate
from cases import (
    ACTIVATIONS,
    DTYPES,
    LAYOUTS,
    ROUTES,
    TORCH_ACTIVATIONS,
    Layout,
    assert_derived,
    take_route,
)

EPS, MOMENTUM = 1e-3, 0.3
AFFINES = {
    "affine": (True, True),
    "plain": (False, False),
    "scale": (True, False),
    "shift": (False, True),
}
MODES = {"train": (True, None), "virtual2": (True, 2), "virtual3": (True, 3), "eval": (False, None)}

# Every layout with and without weight and bias in turn; every activation on one layout.
PROBLEMS = [
    (layout, affine, None)
    for layout, affine in zip(LAYOUTS, itertools.cycle(AFFINES), strict=False)
] + [
    (Layout((6, 3, 4)), affine, activation)
    for activation, affine in zip(ACTIVATIONS[1:], itertools.cycle(AFFINES), strict=False)
]


def make_problem(layout, dtype, affine, seed=0):
    generator = torch.Generator().manual_seed(seed)
    channels = layout.shape[1]

    def randn(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    x = layout.arrange((randn(*layout.shape) * 2 + 3).to(dtype))
    params = torch.float64 if dtype is torch.float64 else torch.float32
    weight, bias = (randn(channels) + 1).to(params), randn(channels).to(params)
    running = randn(channels).to(params), (randn(channels) ** 2 + 0.5).to(params)
    grad_y = layout.arrange(randn(*layout.shape).to(dtype))
    return x, weight if affine[0] else None, bias if affine[1] else None, running, grad_y


def chunks_of(x, training, size):
    return reference.virtual_chunks(x, size) if training and size else [x]


def solve_exactly(x, weight, bias, running, grad_y, activation, training, size):
    outputs, grads = [], []
    sizes = [len(chunk) for chunk in chunks_of(x, training, size)]
    for chunk, grad in zip(x.split(sizes), grad_y.split(sizes), strict=True):
        if training:
            z, mean, var = reference.forward_train(chunk, weight, bias, EPS)
        else:
            mean, var = running
            z = reference.forward(chunk, mean, var, weight, bias, EPS)
        grad_z = reference.activate_backward(activation, grad, z)
        outputs.append(reference.activate(activation, z))
        if training:
            grads.append(reference.backward_train(grad_z, chunk, weight, EPS))
        else:
            grads.append(reference.backward_eval(grad_z, chunk, mean, var, weight, EPS))
    if training:
        running = reference.running_update(running, reference.moments(x), MOMENTUM)
    grad_x, grad_weight, grad_bias = zip(*grads, strict=True)
    return (torch.cat(outputs), torch.cat(grad_x), sum(grad_weight), sum(grad_bias), *running)


def solve(normalize, x, weight, bias, running, grad_y):
    x, weight, bias = (
        None if t is None else t.detach().clone().requires_grad_() for t in (x, weight, bias)
    )
    running = tuple(buffer.clone() for buffer in running)
    y = normalize(x, *running, weight, bias)
    assert not any(buffer.requires_grad for buffer in running)
    y.backward(grad_y)
    grads = (None if t is None else t.grad for t in (x, weight, bias))
    return (y.detach(), *grads, *running)


def torch_way(activation, training, size):
    def normalize(x, running_mean, running_var, weight, bias):
        chunks = chunks_of(x, training, size)
        if len(chunks) > 1:
            with torch.no_grad():  # one update, by the whole batch
                torch.nn.functional.batch_norm(
                    x, running_mean, running_var, training=True, momentum=MOMENTUM
                )
            running_mean = running_var = None
        y = torch.cat(
            [
                torch.nn.functional.batch_norm(
                    chunk, running_mean, running_var, weight, bias, training, MOMENTUM, EPS
                )
                for chunk in chunks
            ]
        )
        return TORCH_ACTIVATIONS[activation](y)

    return normalize


def our_way(activation, training, size):
    def normalize(*tensors):
        return batch_norm(
            *tensors, training, MOMENTUM, EPS, activation=activation, virtual_batch_size=size
        )

    return normalize


def magnitudes(x, weight, bias, running, grad_y, activation, training, size):
    """Largest terms, and growth of an ulp in the statistics, for each result."""
    chunks = chunks_of(x, training, size)
    var = torch.cat([reference.forward_train(c, None, None, EPS)[2] for c in chunks])
    var = var if training else running[1].double()
    invstd = (var.min() + EPS).item() ** -0.5
    scale = 1.0 if weight is None else weight.abs().max().item()
    x_max, dy = x.abs().max().item() + running[0].abs().max().item(), grad_y.abs().max().item()
    count = x.numel() // x.shape[1]
    x_hat = min(x_max * invstd, count**0.5)
    shift = x_max * invstd  # one ulp of the mean, in standard deviations
    grad = scale * invstd * dy
    return (
        (0, scale * shift),
        (grad, grad * (1 + x_hat) * (1 + shift)),
        (dy * x_hat, dy * count * (x_hat + shift)),
        (dy, dy * count),
        (0, x_max),
        (0, x_max**2),
    )


NAMES = ("output", "grad_input", "grad_weight", "grad_bias", "running_mean", "running_var")


def assert_parity(problem, activation, training, size, monkeypatch):
    exact = solve_exactly(*problem, activation, training, size)
    torchs = solve(torch_way(activation, training, size), *problem)
    sizes = magnitudes(*problem, activation, training, size)
    for route in ROUTES:
        with monkeypatch.context() as patch:
            take_route(patch, route)
            ours = solve(our_way(activation, training, size), *problem)
        for name, our, its, truth, terms in zip(NAMES, ours, torchs, exact, sizes, strict=True):
            if our is not None:
                assert our.dtype is its.dtype
                assert_derived(f"{route} {name}", our, its, truth, problem[0].dtype, *terms)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("layout", "affine", "activation"), PROBLEMS, ids=str)
def test_batch_norm_agrees_with_reference(layout, affine, activation, dtype, mode, monkeypatch):
    problem = make_problem(layout, dtype, AFFINES[affine])
    assert_parity(problem, activation, *MODES[mode], monkeypatch)


@pytest.mark.parametrize(
    "layout", [Layout((64, 3)), Layout((8, 3, 4, 4), "channels_last")], ids=str
)
@pytest.mark.parametrize("dtype", DTYPES[:2], ids=str)
@pytest.mark.parametrize(
    ("mean", "std"), [(1e6, 1), (1e3, 1e-3), (-1e6, 1e-2), (0, 1e-40), (0, 1e15)]
)
def test_batch_norm_agrees_with_reference_on_hostile_scales(mean, std, dtype, layout, monkeypatch):
    x, weight, bias, running, grad_y = make_problem(layout, torch.float64, (True, True))
    params = (t.to(dtype) for t in (weight, bias))
    x = layout.arrange((mean + (x - 3) * std / 2).to(dtype))
    problem = (x, *params, tuple(t.to(dtype) for t in running), grad_y.to(dtype))
    assert_parity(problem, None, True, None, monkeypatch)


@pytest.fixture(params=ROUTES)
def route(request, monkeypatch):
    take_route(monkeypatch, request.param)


@pytest.mark.usefixtures("route")
@pytest.mark.parametrize("shape", [(64, 3), (8, 3, 4, 4)], ids=str)
def test_batch_norm_keeps_a_small_spread_on_a_large_mean(shape):
    """Where torch, in float32, is off by a tenth of a standard deviation."""
    x = (1e6 + torch.randn(shape, generator=torch.Generator().manual_seed(0))).float()
    exact, _, var = reference.forward_train(x, None, None, EPS)
    running_var = torch.ones(3)
    y = batch_norm(x, torch.zeros(3), running_var, training=True, momentum=1.0, eps=EPS)
    torch.testing.assert_close(y.double(), exact, rtol=0, atol=1e-5)
    count = x.numel() // 3
    torch.testing.assert_close(running_var.double(), var * count / (count - 1), rtol=1e-5, atol=0)


@pytest.mark.usefixtures("route")
@pytest.mark.parametrize("at", [0, -1], ids=["first", "last"])
@pytest.mark.parametrize("shape", [(2**16, 2), (16, 2, 64, 64)], ids=str)
def test_one_enormous_value_costs_the_others_no_precision(shape, at):
    """Shifting a channel by such a value would be worse than not shifting it."""
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    x[(at, 0, *(at,) * (x.dim() - 2))] = 1e6
    exact, _, _ = reference.forward_train(x, None, None, EPS)
    torch_error = torch.nn.functional.batch_norm(x, None, None, training=True, eps=EPS) - exact
    error = batch_norm(x, None, None, training=True, eps=EPS) - exact
    error[x == 1e6] = torch_error[x == 1e6] = 0
    assert float(error.abs().max()) <= 2 * float(torch_error.abs().max()) + 1e-6


@pytest.mark.usefixtures("route")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(7, 2), (3, 2, 5, 5)], ids=str)
def test_constant_channel_becomes_exactly_the_bias(shape, dtype):
    bias = torch.tensor([0.1, -7.3]).to(dtype)
    running_var = torch.ones(2, dtype=torch.float64)
    y = batch_norm(
        torch.full(shape, 0.1, dtype=dtype),
        torch.zeros(2, dtype=torch.float64),
        running_var,
        bias=bias,
        training=True,
        momentum=1.0,
    )
    assert torch.equal(y, shapes.as_channels(bias, len(shape)).expand(shape))
    assert torch.equal(running_var, torch.zeros(2, dtype=torch.float64))


@pytest.mark.usefixtures("route")
@pytest.mark.parametrize("size", [None, 4])
def test_nan_stays_in_its_channel_and_its_virtual_batch(size):
    x = torch.randn(8, 3, 2, generator=torch.Generator().manual_seed(0)).requires_grad_()
    bad = x.detach().clone()
    bad[1, 1, 0] = float("nan")
    bad.requires_grad_()
    clean, dirty = (
        batch_norm(t, None, None, training=True, virtual_batch_size=size) for t in (x, bad)
    )
    touched = torch.zeros(8, 3, 2, dtype=torch.bool)
    touched[: size or 8, 1] = True
    assert dirty[touched].isnan().all()
    assert torch.equal(dirty[~touched], clean[~touched])
    clean.square().sum().backward()
    dirty[~touched].square().sum().backward()
    torch.testing.assert_close(bad.grad[:, ::2], x.grad[:, ::2])


@pytest.mark.usefixtures("route")
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("activation", [None, "sigmoid"])
@pytest.mark.parametrize("shape", [(0, 3), (2, 3, 0)], ids=str)
def test_empty_batch_keeps_statistics_and_has_zero_gradients(shape, activation, training):
    x = torch.empty(shape, requires_grad=True)
    weight, bias = torch.ones(3, requires_grad=True), torch.ones(3, requires_grad=True)
    running = torch.full((3,), 2.0), torch.full((3,), 5.0)
    y = batch_norm(x, *running, weight, bias, training, activation=activation, virtual_batch_size=2)
    y.sum().backward()
    assert y.shape == x.grad.shape == shape
    assert torch.equal(weight.grad, torch.zeros(3))
    assert torch.equal(bias.grad, torch.zeros(3))
    assert torch.equal(running[0], torch.full((3,), 2.0))
    assert torch.equal(running[1], torch.full((3,), 5.0))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("memory", ["contiguous", "channels_last"])
@pytest.mark.parametrize("size", [None, 2, 3])
@pytest.mark.parametrize("shape", [(4, 3, 5, 6), (4, 3, 2, 5, 6)], ids=str)
def test_output_keeps_the_memory_format(shape, size, memory, training):
    x = Layout(shape, memory).arrange(torch.randn(shape))
    y = batch_norm(x, torch.zeros(3), torch.ones(3), training=training, virtual_batch_size=size)
    assert y.stride() == x.stride()


CHECKED_MODES = {
    "train": {"training": True},
    "virtual": {"training": True, "virtual_batch_size": 2},
    "uneven": {"training": True, "virtual_batch_size": 3},
    "eval": {},
}


@pytest.mark.usefixtures("route")
@pytest.mark.parametrize("mode", CHECKED_MODES)
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_gradients_and_their_gradients_are_right(activation, affine, mode):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(5, 2, 2, generator=generator, dtype=torch.float64).requires_grad_()
    vector = torch.tensor([1.5, -0.5], dtype=torch.float64).requires_grad_()
    running_mean, running_var = torch.tensor([[0.5, -1.0], [2.0, 0.3]], dtype=torch.float64)

    def f(x, weight=None, bias=None):
        # Copies: the running statistics must be the same in every call.
        return batch_norm(
            x,
            running_mean.clone(),
            running_var.clone(),
            weight,
            bias,
            activation=activation,
            **CHECKED_MODES[mode],
        )

    inputs = (x, vector, vector.detach().flip(0).requires_grad_()) if affine else (x,)
    assert gradcheck(f, inputs, fast_mode=True)
    assert gradgradcheck(f, inputs, fast_mode=True)
    # gradgradcheck takes the first derivative on trust.
    grad_y = torch.randn(5, 2, 2, generator=generator, dtype=torch.float64)
    first = torch.autograd.grad(f(*inputs), inputs, grad_y)
    differentiable = torch.autograd.grad(f(*inputs), inputs, grad_y, create_graph=True)
    torch.testing.assert_close(differentiable, first)


def test_gradient_does_not_count_a_path_twice():
    """With create_graph, a weight that is a function of the input is still one argument."""
    x = torch.randn(6, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x.requires_grad_()

    def f(x):
        return batch_norm(x, None, None, weight=x.square().mean(0), training=True)

    assert gradgradcheck(f, (x,))


@pytest.mark.usefixtures("route")
def test_only_the_gradients_asked_for_are_computed():
    x, weight = torch.randn(4, 3), torch.ones(3, requires_grad=True)
    batch_norm(x, None, None, weight, torch.zeros(3), True).square().sum().backward()
    assert weight.grad is not None
    assert x.grad is None


@pytest.mark.parametrize("steps", [1, 2, 100])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_running_statistics_after_steps_on_constant_data(steps, dtype):
    x = torch.tensor([[1.0], [3.0]], dtype=dtype)  # mean 2, variance 2 (correction 1)
    running_mean, running_var = torch.zeros(1, dtype=dtype), torch.ones(1, dtype=dtype)
    for _ in range(steps):
        batch_norm(x, running_mean, running_var, training=True, momentum=0.1)
    left = 0.9**steps
    mean, var = 2 * (1 - left), left + 2 * (1 - left)
    rtol = 1e-12 if dtype is torch.float64 else 1e-5
    torch.testing.assert_close(running_mean.item(), mean, rtol=rtol, atol=0)
    torch.testing.assert_close(running_var.item(), var, rtol=rtol, atol=0)
    y = batch_norm(x, running_mean, running_var, eps=0.5)
    expected = [(1 - mean) / (var + 0.5) ** 0.5, (3 - mean) / (var + 0.5) ** 0.5]
    torch.testing.assert_close(y.flatten().tolist(), expected, rtol=rtol, atol=1e-12)


@pytest.mark.parametrize("size", [None, 1, 2, 3, 4, 8, 100])
def test_running_statistics_do_not_depend_on_virtual_batches(size):
    x = torch.arange(8.0, dtype=torch.float64)[:, None]  # variance with correction 1: 6
    running_mean, running_var = torch.zeros(2, 1, dtype=torch.float64)
    batch_norm(x, running_mean, running_var, training=True, momentum=0.5, virtual_batch_size=size)
    torch.testing.assert_close(running_mean.item(), 1.75, rtol=1e-15, atol=0)
    torch.testing.assert_close(running_var.item(), 3.0, rtol=1e-15, atol=0)


def test_half_running_statistics_are_rounded_once():
    """The mean 1.00796875 rounds to 1.0078125; half way from 1 to that would be a tie, and 1."""
    running = torch.ones(1, dtype=torch.bfloat16)
    x = torch.tensor([[0.00796875], [2.00796875]])
    batch_norm(x, running, running.clone(), training=True, momentum=0.5)
    assert running.item() == 1.0078125


@pytest.mark.parametrize("momentum", [0.25, torch.tensor(0.25), torch.tensor([0.25]).double()])
def test_update_running_takes_numbers_and_tensors(momentum):
    running_mean, running_var = torch.zeros(2), torch.ones(2)
    batch = Estimate(torch.full((2,), 4.0), torch.full((2,), 5.0), count=8, effective=8)
    update_running_(running_mean, running_var, batch, momentum)
    assert torch.equal(running_mean, torch.ones(2))
    assert torch.equal(running_var, torch.full((2,), 2.0))


@pytest.mark.usefixtures("route")
def test_evaluation_can_be_differentiated_after_a_training_step():
    x = torch.tensor([[1.0], [3.0]], requires_grad=True)
    running_mean, running_var = torch.zeros(1), torch.ones(1)
    y = batch_norm(x, running_mean, running_var, eps=3.0)
    batch_norm(x.detach(), running_mean, running_var, training=True)
    y.sum().backward()
    assert torch.equal(x.grad, torch.full((2, 1), 0.5))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("size", [None, 2])
def test_function_transforms_see_through_small_batches(size, training):
    x = torch.randn(6, 3, 2, generator=torch.Generator().manual_seed(0)).requires_grad_()
    running = (None, None) if training else (torch.zeros(3), torch.ones(3))

    def loss(x):
        y = batch_norm(x, *running, training=training, virtual_batch_size=size, activation="gelu")
        return y.square().sum()

    (expected,) = torch.autograd.grad(loss(x), x)
    torch.testing.assert_close(torch.func.grad(loss)(x.detach()), expected)


def test_training_in_half_precision_does_not_need_float_parameters():
    x = torch.randn(6, 3, dtype=torch.bfloat16, requires_grad=True)
    weight = torch.ones(3, dtype=torch.bfloat16, requires_grad=True)
    batch_norm(x, None, None, weight, torch.zeros_like(weight), True).sum().backward()
    assert x.grad.dtype is weight.grad.dtype is torch.bfloat16


ONE_VALUE = r"more than 1 value per channel in training, found 1 \(input 1×3×1\)"


@pytest.mark.parametrize(
    ("error", "match", "arguments"),
    [
        (StatisticsError, ONE_VALUE, {"input": torch.zeros(1, 3, 1)}),
        (ShapeError, r"\(N, C, ...\), found shape 3;", {"input": torch.zeros(3)}),
        (ShapeError, r"weight .* 3 channels .*\(2×3\), found shape 4", {"weight": torch.ones(4)}),
        (ShapeError, "bias .* found shape 1×3", {"bias": torch.ones(1, 3)}),
        (ShapeError, "running_mean", {"running_mean": torch.ones(2)}),
        (TypeError, "floating point input, found torch.int64", {"input": torch.ones(2, 3).long()}),
        (StatisticsError, "together", {"running_mean": None}),
        (OptionError, "one of 'relu', .*'tanh'; found 'swish'", {"activation": "swish"}),
        (OptionError, "found 3", {"activation": 3}),
        (OptionError, "positive int .* found 0", {"virtual_batch_size": 0}),
        (OptionError, "found True", {"virtual_batch_size": True}),
        (OptionError, "found 2.0", {"virtual_batch_size": 2.0}),
        (OptionError, "eps must be positive, found 0", {"eps": 0.0}),
    ],
)
def test_refusal_explains_and_leaves_the_statistics(error, match, arguments):
    running = {"running_mean": torch.zeros(3), "running_var": torch.ones(3)}
    call = {"input": torch.randn(2, 3), "training": True, **running, **arguments}
    with pytest.raises(error, match=match):
        batch_norm(**call)
    assert torch.equal(running["running_mean"], torch.zeros(3))
    assert torch.equal(running["running_var"], torch.ones(3))


def test_evaluation_without_statistics_is_refused():
    with pytest.raises(StatisticsError, match="outside training, found None"):
        batch_norm(torch.randn(2, 3), None, None)
