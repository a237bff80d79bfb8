"""What `batch_norm` promises about its results and the running statistics, in numbers."""

import pytest
import torch

from batchnorm import reference
from batchnorm.functional import batch_norm, update_running_
from batchnorm.moments import Estimate
from cases import DTYPES, ROUTES, Layout, assert_derived, take_route

NAN = float("nan")
F64 = torch.float64


@pytest.fixture(params=ROUTES)
def route(request, monkeypatch):
    take_route(monkeypatch, request.param)


def values(*numbers, dtype=F64):
    """A batch of one channel."""
    return torch.tensor(numbers, dtype=dtype)[:, None]


# Name -> batch, options, mean and variance (correction 1) of what counts in it.
BATCHES = {
    "plain": (values(1, 3), {}, 2, 2),
    "mask": (values(1, 3, NAN), {"mask": [True, True, False]}, 2, 2),
    "mask of positions": (
        torch.tensor([[[1, NAN]], [[7, 3]]], dtype=F64),
        {"mask": [[True, False], [False, True]]},
        2,
        2,
    ),
    "weights": (values(1, 5), {"sample_weight": [3.0, 1.0]}, 2, 8),
    "huge weights": (values(1, 5), {"sample_weight": [3e30, 1e30]}, 2, 8),
    "weight 0": (values(1, 3, 100), {"sample_weight": [2.0, 2.0, 0.0]}, 2, 2),
    "mask and weights": (
        values(1, 5, NAN),
        {"mask": [True, True, False], "sample_weight": [3.0, 1.0, 7.0]},
        2,
        8,
    ),
    "virtual": (values(*range(8)), {"virtual_batch_size": 2}, 3.5, 6),
    "virtual, uneven": (values(*range(8)), {"virtual_batch_size": 3}, 3.5, 6),
    "virtual, one masked": (
        values(NAN, NAN, 1, 3, 5, 7),
        {"virtual_batch_size": 2, "mask": [False, False, True, True, True, True]},
        4,
        20 / 3,
    ),
    "virtual, one value": (
        values(1, NAN, 3, 5),
        {
            "virtual_batch_size": 2,
            "mask": [True, False, True, True],
            "degenerate": "running",
        },
        3,
        4,
    ),
    "virtual, weights": (
        values(1, 1, 1, 5),
        {"virtual_batch_size": 2, "sample_weight": [1.0, 1.0, 1.0, 1.0]},
        2,
        4,
    ),
    "renorm": (values(1, 3), {"renorm": (1.2, 0.5)}, 2, 2),
}


def assert_values(tensor, expected, rtol=1e-14, atol=1e-14):
    expected = torch.tensor(expected, dtype=F64)
    torch.testing.assert_close(tensor.flatten().double(), expected, rtol=rtol, atol=atol)


def as_tensors(options):
    dtypes = {"mask": torch.bool, "sample_weight": F64}
    return {
        name: torch.tensor(value, dtype=dtypes[name]) if name in dtypes else value
        for name, value in options.items()
    }


@pytest.mark.usefixtures("route")
@pytest.mark.parametrize("steps", [1, 2, 100])
@pytest.mark.parametrize("dtype", [F64, torch.float32], ids=str)
@pytest.mark.parametrize("name", BATCHES)
def test_running_statistics_and_evaluation_after_steps(name, dtype, steps):
    x, options, mean, var = BATCHES[name]
    running_mean, running_var = torch.zeros(1, dtype=dtype), torch.ones(1, dtype=dtype)
    for _ in range(steps):
        batch_norm(
            x.to(dtype),
            running_mean,
            running_var,
            training=True,
            momentum=0.1,
            **as_tensors(options),
        )
    left = 0.9**steps
    mean, var = mean * (1 - left), left + var * (1 - left)
    rtol = 1e-12 if dtype is F64 else 1e-5
    assert_values(running_mean, [mean], rtol, 0)
    assert_values(running_var, [var], rtol, 0)
    mask = torch.tensor([True, False, True])
    y = batch_norm(values(1, NAN, 3, dtype=dtype), running_mean, running_var, eps=0.5, mask=mask)
    expected = [(1 - mean) / (var + 0.5) ** 0.5, 0, (3 - mean) / (var + 0.5) ** 0.5]
    assert_values(y, expected, rtol, rtol)
    assert y[1] == 0


@pytest.mark.usefixtures("route")
@pytest.mark.parametrize("steps", [1, 2, 100])
def test_renormalized_output_after_steps(steps):
    """Values 1 and 3: r and d begin as 1 and clipped, and end as clipped and almost 0."""
    running_mean, running_var = torch.zeros(1, dtype=F64), torch.ones(1, dtype=F64)
    for _ in range(steps):
        y = batch_norm(
            values(1, 3), running_mean, running_var, training=True, eps=0.5, renorm=(1.2, 0.5)
        )
    left = 0.9 ** (steps - 1)  # before the last step
    std = (left + 2 * (1 - left) + 0.5) ** 0.5
    r = max(1.5**0.5 / std, 1 / 1.2)
    d = min(2 * left / std, 0.5)
    x_hat = 1 / 1.5**0.5
    assert_values(y, [-x_hat * r + d, x_hat * r + d], rtol=1e-12)


@pytest.mark.usefixtures("route")
@pytest.mark.parametrize("steps", [1, 2, 100])
def test_within_wide_limits_renormalized_output_is_that_of_evaluation(steps):
    running_mean, running_var = torch.zeros(1, dtype=F64), torch.ones(1, dtype=F64)
    for _ in range(steps):
        expected = batch_norm(values(1, 3), running_mean, running_var)
        y = batch_norm(values(1, 3), running_mean, running_var, training=True, renorm=(99.0, 99.0))
    torch.testing.assert_close(y, expected, rtol=1e-12, atol=1e-12)


T = 2 / (8 / 3 + 3) ** 0.5
OUTPUTS = {
    "mask": (values(1, NAN, 3), {"mask": [True, False, True]}, [-0.5, 0, 0.5]),
    "weights": (values(1, 5, 9), {"sample_weight": [3.0, 1.0, 0.0], "eps": 1.0}, [-0.5, 1.5, 3.5]),
    "virtual": (values(1, 3, 10, 10), {"virtual_batch_size": 2}, [-0.5, 0.5, 0, 0]),
    "virtual, uneven": (values(1, 3, 5, 7, 9), {"virtual_batch_size": 3}, [-T, 0, T, -0.5, 0.5]),
    "residual": (values(1, 3), {"residual": values(2, -5), "activation": "relu"}, [1.5, 0]),
    "residual and mask": (
        values(1, NAN, 3),
        {
            "residual": values(2, NAN, 4),
            "mask": [True, False, True],
            "activation": "sigmoid",
        },
        [1 / (1 + 2.718281828459045**-1.5), 0, 1 / (1 + 2.718281828459045**-4.5)],
    ),
    # The running mean is 1, the running variance 6: a standard deviation of 3.
    "one value": (values(7), {"degenerate": "running"}, [2]),
    "one value there": (
        values(7, NAN),
        {"degenerate": "running", "mask": [True, False]},
        [2, 0],
    ),
    "one value in one chunk": (
        values(7, NAN, 1, 3),
        {"degenerate": "running", "mask": [True, False, True, True], "virtual_batch_size": 2},
        [2, 0, -0.5, 0.5],
    ),
    "one value that has weight": (
        values(7, 4, 1, 3),
        {"degenerate": "running", "sample_weight": [2.0, 0, 1, 1], "virtual_batch_size": 2},
        [2, 1, -0.5, 0.5],
    ),
    "one value, renormalized": (
        values(7, NAN),
        {"degenerate": "running", "mask": [True, False], "renorm": (1.1, 0.1)},
        [2, 0],
    ),
    "all masked": (values(7, NAN), {"mask": [False, False], "activation": "sigmoid"}, [0, 0]),
}


@pytest.mark.usefixtures("route")
@pytest.mark.parametrize("name", OUTPUTS)
def test_output_in_training_is_that_worked_out_by_hand(name):
    """With eps = 3, where not said otherwise, 1 and 3 have the standard deviation 2."""
    x, options, expected = OUTPUTS[name]
    running = torch.ones(1, dtype=F64), torch.full((1,), 6.0, dtype=F64)
    y = batch_norm(x, *running, training=True, **({"eps": 3.0} | as_tensors(options)))
    assert_values(y, expected)


@pytest.mark.usefixtures("route")
@pytest.mark.parametrize("name", [name for name in OUTPUTS if "one value" not in name])
def test_output_does_not_need_running_statistics(name):
    x, options, expected = OUTPUTS[name]
    y = batch_norm(x, None, None, training=True, **({"eps": 3.0} | as_tensors(options)))
    assert_values(y, expected)


@pytest.mark.usefixtures("route")
@pytest.mark.parametrize(
    "name", ["one value", "one value there", "one value, renormalized", "all masked"]
)
def test_a_batch_of_one_value_or_none_moves_no_running_statistics(name):
    x, options, _ = OUTPUTS[name]
    running = torch.ones(1, dtype=F64), torch.full((1,), 6.0, dtype=F64)
    batch_norm(x, *running, training=True, momentum=1.0, **as_tensors(options))
    assert [t.item() for t in running] == [1, 6]


@pytest.mark.parametrize("size", [None, 1, 2, 3, 4, 8, 100])
def test_running_statistics_do_not_depend_on_virtual_batches(size):
    running_mean, running_var = torch.zeros(2, 1, dtype=F64)
    x = values(*range(8))  # variance with correction 1: 6
    batch_norm(x, running_mean, running_var, training=True, momentum=0.5, virtual_batch_size=size)
    assert_values(running_mean, [1.75])
    assert_values(running_var, [3.0])


@pytest.mark.usefixtures("route")
def test_only_training_is_weighted_cut_and_corrected():
    x = values(1, 5, 9)
    running = torch.ones(1, dtype=F64), torch.full((1,), 6.0, dtype=F64)
    expected = batch_norm(x, *running)
    y = batch_norm(
        x,
        *running,
        sample_weight=torch.tensor([3.0, 1.0, 0.0]),
        virtual_batch_size=2,
        renorm=(1.0, 0.0),
        degenerate="running",
    )
    assert torch.equal(y, expected)


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


@pytest.mark.parametrize("finite", [None, True])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_update_running_takes_the_channels_it_is_told_and_that_are_known(dtype, finite):
    running = torch.zeros(4, dtype=dtype), torch.ones(4, dtype=dtype)
    effective = torch.tensor([8.0, 8.0, 1.0, 0.0])
    batch = Estimate(torch.full((4,), 4.0), torch.full((4,), 5.0), effective, effective, finite)
    momentum = torch.tensor([0.25, 0.5, 0.5, 0.5])
    update_running_(*running, batch, momentum, take=torch.tensor([True, False, True, True]))
    assert [t.tolist() for t in running] == [[1, 0, 0, 0], [2, 1, 1, 1]]


@pytest.mark.parametrize("momentum", [0.1, 0.5, 1.0])
@pytest.mark.parametrize("options", [{}, {"mask": torch.ones(4).bool()}], ids=["plain", "mask"])
def test_an_infinite_variance_makes_the_running_one_infinite(options, momentum):
    running = torch.zeros(1), torch.ones(1)
    x = values(0, 1e30, 1e30, 0, dtype=torch.float32)
    batch_norm(x, *running, training=True, momentum=momentum, **options)
    torch.testing.assert_close(running[0], torch.full((1,), momentum * 5e29))
    assert running[1] == float("inf")


@pytest.mark.parametrize("momentum", [0.0, 1.0, -1.2, 2.0])
def test_momentum_is_any_number(momentum):
    running_mean, running_var = torch.zeros(1, dtype=F64), torch.ones(1, dtype=F64)
    batch_norm(values(1, 3), running_mean, running_var, training=True, momentum=momentum)
    assert_values(running_mean, [2 * momentum])
    assert_values(running_var, [1 + momentum])


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("memory", ["contiguous", "channels_last"])
@pytest.mark.parametrize("size", [None, 2, 3])
@pytest.mark.parametrize("option", [None, "mask", "sample_weight", "residual", "renorm"])
@pytest.mark.parametrize("shape", [(4, 3, 5, 6), (4, 3, 2, 5, 6)], ids=str)
def test_output_and_gradient_keep_the_memory_format(shape, option, size, memory, training):
    x = Layout(shape, memory).arrange(torch.randn(shape)).requires_grad_()
    choices = {
        "mask": torch.rand(shape[0], *shape[2:]) < 0.9,
        "sample_weight": torch.rand(shape[0]) + 0.1,
        "residual": torch.randn(shape),
        "renorm": (3.0, 5.0),
    }
    options = {option: choices[option]} if option else {}
    running = torch.zeros(3), torch.ones(3)
    y = batch_norm(x, *running, training=training, virtual_batch_size=size, **options)
    # As `x.grad` it would have the format of x anyway.
    (grad,) = torch.autograd.grad(y, x, torch.ones_like(y))
    assert y.stride() == grad.stride() == x.stride()


@pytest.mark.usefixtures("route")
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("activation", [None, "sigmoid"])
@pytest.mark.parametrize("options", [{}, {"mask": torch.bool}, {"sample_weight": F64}], ids=str)
@pytest.mark.parametrize("shape", [(0, 3), (2, 3, 0)], ids=str)
def test_empty_batch_keeps_statistics_and_has_zero_gradients(shape, options, activation, training):
    x = torch.empty(shape, requires_grad=True)
    weight, bias = torch.ones(3, requires_grad=True), torch.ones(3, requires_grad=True)
    running = torch.full((3,), 2.0), torch.full((3,), 5.0)
    options = {name: torch.ones(shape[0], dtype=dtype) for name, dtype in options.items()}
    options |= {"activation": activation, "virtual_batch_size": 2, "renorm": (3.0, 5.0)}
    y = batch_norm(x, *running, weight, bias, training, residual=x, **options)
    y.sum().backward()
    assert y.shape == x.grad.shape == shape
    for grad in (weight.grad, bias.grad):
        assert torch.equal(grad, torch.zeros(3))
    assert torch.equal(running[0], torch.full((3,), 2.0))
    assert torch.equal(running[1], torch.full((3,), 5.0))


def test_training_in_half_precision_does_not_need_float_parameters():
    x = torch.randn(6, 3, dtype=torch.bfloat16, requires_grad=True)
    weight = torch.ones(3, dtype=torch.bfloat16, requires_grad=True)
    batch_norm(x, None, None, weight, torch.zeros_like(weight), True).sum().backward()
    assert x.grad.dtype is weight.grad.dtype is torch.bfloat16


@pytest.mark.parametrize("training", [True, False])
def test_more_than_65535_samples(training):
    """More than some kernels count (pytorch#19911)."""
    x = torch.randn(70_000, 2, generator=torch.Generator().manual_seed(0)) + 3
    running = torch.tensor([2.0, 4.0]), torch.tensor([1.0, 3.0])
    exact = reference.forward(x, *running, None, None, 1e-5)
    if training:
        exact, _, _ = reference.forward_train(x, None, None, 1e-5)
    y = batch_norm(x, *(t.clone() for t in running), training=training, eps=1e-5)
    its = torch.nn.functional.batch_norm(x, *running, training=training, eps=1e-5)
    assert_derived("output", y, its, exact, torch.float32)
