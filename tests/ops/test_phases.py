"""Every set of kernels against the contract in the docstring of batchnorm.ops."""

import pytest
import torch

from batchnorm import ops, reference

KERNELS = [ops.composite, ops.aten]
SHAPES = [(7, 5), (4, 3, 6), (3, 4, 2, 5)]
EPS = 1e-3

pytestmark = [
    pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str),
    pytest.mark.parametrize("shape", SHAPES, ids=str),
]


def make(shape, dtype):
    generator = torch.Generator().manual_seed(0)
    x, grad = torch.randn(2, *shape, generator=generator).to(dtype)
    return 3 + x, grad, torch.randn(shape[1], generator=generator).to(dtype)


def assert_close(ours, exact, dtype):
    wide = torch.float64 if dtype is torch.float64 else torch.float32
    assert {t.dtype for t in ours} == {wide}
    for a, b in zip(ours, exact, strict=True):
        torch.testing.assert_close(a.double(), b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kernels", KERNELS, ids=lambda kernels: kernels.__name__)
def test_stats_are_mean_and_variance(kernels, shape, dtype):
    x, _, _ = make(shape, dtype)
    mean, var = reference.statistics(x)
    assert_close(kernels.stats(x), (mean, var), dtype)


@pytest.mark.parametrize("kernels", KERNELS, ids=lambda kernels: kernels.__name__)
def test_standardize_returns_the_result_and_its_statistics(kernels, shape, dtype):
    x, _, weight = make(shape, dtype)
    y, mean, var = reference.forward_train(x, weight, weight, EPS)
    count = x.numel() // shape[1]
    exact = y, mean, var * count / (count - 1), (var + EPS) ** -0.5
    assert_close(kernels.standardize(x, weight, weight, EPS), exact, dtype)


@pytest.mark.parametrize("kernels", KERNELS, ids=lambda kernels: kernels.__name__)
@pytest.mark.parametrize("needs", [(True, True, True), (False, True, False), (True, False, False)])
def test_backward_returns_what_is_needed(kernels, needs, shape, dtype):
    x, grad, weight = make(shape, dtype)
    _, mean, _, invstd = kernels.standardize(x, weight, None, EPS)
    grads = kernels.backward(grad, x, mean, invstd, weight, needs)
    exact = reference.backward_train(grad, x, weight, EPS)
    assert [g is not None for g in grads] == list(needs)
    for ours, truth in zip(grads, exact, strict=True):
        if ours is not None:
            bound = 2e-2 if dtype is torch.bfloat16 else 1e-4
            torch.testing.assert_close(ours.double(), truth, rtol=bound, atol=bound)


def test_backward_can_sum_over_parts_of_a_batch(shape, dtype):
    """What replicas do: reduce here, add up, finish here."""
    x, grad, weight = make(shape, dtype)
    _, mean, _, invstd = ops.composite.standardize(x, weight, None, EPS)
    parts = list(zip(torch.split(grad, 2), torch.split(x, 2), strict=True))
    sums = [ops.composite.backward_reduce(dy, part, mean) for dy, part in parts]
    sum_dy, sum_dy_xmu = (sum(s) for s in zip(*sums, strict=True))
    count = x.numel() // shape[1]
    outputs = [
        ops.composite.backward_elemt(dy, part, mean, invstd, weight, sum_dy, sum_dy_xmu, 1 / count)
        for dy, part in parts
    ]
    exact = reference.backward_train(grad, x, weight, EPS)[0]
    bound = 2e-2 if dtype is torch.bfloat16 else 1e-4
    torch.testing.assert_close(torch.cat(outputs).double(), exact, rtol=bound, atol=bound)
