"""The float64 answers of a benchmark, beside the executable specification."""

import math

import pytest
import torch

from batchnorm import reference
from batchnorm.bench import plan, problem


def made(operation, shape="4,5,3,2", layout="contiguous", dtype="float32"):
    (case,) = plan.make_plan(
        shapes=[shape], layouts=[layout], dtypes=[dtype], operations=[operation]
    ).cases()
    return problem.make_problem(case)


CASES = [
    ("bn", "contiguous", "float32"),
    ("bn+relu", "channels-last", "float32"),
    ("bn+add+relu", "contiguous", "bfloat16"),
    ("bn+add+relu", "channels-last", "float32"),
]


@pytest.mark.parametrize(("operation", "layout", "dtype"), CASES, ids=map("-".join, CASES))
def test_training_is_that_of_the_specification(operation, layout, dtype, monkeypatch):
    monkeypatch.setattr(problem, "_CHUNK", 50)  # two channels at a time, the last one alone
    p = made(operation, layout=layout, dtype=dtype)
    z = reference.forward_train(p.x, p.weight, p.bias, problem.EPS)[0]
    if p.residual is not None:
        z = z + p.residual.double()
    dz = p.grad.double()
    if p.case.operation.relu:
        dz = dz * (z > 0)
    expected = reference.backward_train(dz, p.x, p.weight, problem.EPS)
    close = {"rtol": 0, "atol": 1e-13}  # a sum of 24 values of about 1 in float64
    torch.testing.assert_close(p.output, z.clamp(min=0) if p.case.operation.relu else z, **close)
    for found, wanted in zip(p.gradients, (*expected, dz), strict=False):
        torch.testing.assert_close(found, wanted, **close)
    assert len(p.gradients) == (4 if p.residual is not None else 3)


def test_inference_is_that_of_the_specification():
    p = made("inference")
    z = reference.forward(p.x, p.running_mean, p.running_var, p.weight, p.bias, problem.EPS)
    torch.testing.assert_close(p.output, z.clamp(min=0), rtol=0, atol=1e-14)
    assert p.gradients == ()


def test_inputs_are_laid_out_and_always_the_same():
    p, q = made("bn+add+relu", layout="channels-last"), made("bn+add+relu")
    for one, other in ((p.x, q.x), (p.residual, q.residual), (p.grad, q.grad)):
        assert one.is_contiguous(memory_format=torch.channels_last)
        assert not one.is_contiguous()
        assert torch.equal(one, other)


def test_no_gradient_hangs_on_which_side_of_the_kink_a_value_falls():
    p = made("bn+relu", shape="4096,8")
    z = reference.forward_train(p.x, p.weight, p.bias, problem.EPS)[0]
    near = z.abs() < problem.MARGIN[torch.float32]
    assert near.any()
    assert not p.grad[near].any()
    assert p.grad[~near].all()


def test_deviation_is_in_root_mean_squares_and_the_worst_counts():
    exact = torch.tensor([3.0, 4.0, 0.0, 0.0]).double()  # rms 2.5
    other = torch.tensor([10.0, -10.0]).double()
    off = exact.clone()
    off[3] = 0.25
    assert problem.deviation([off, other + 0.5], [exact, other]) == pytest.approx(0.1)
    assert problem.deviation([exact, other - 2], [exact, other]) == pytest.approx(0.2)


def test_deviation_of_what_is_not_finite_is_not_a_number():
    exact = torch.ones(3).double()
    broken = torch.tensor([1.0, math.nan, 1.0])
    assert math.isnan(problem.deviation([broken, exact], [exact, exact]))


def test_deviation_from_nothing_is_absolute():
    zero = torch.zeros(3).double()
    assert problem.deviation([zero + 0.125], [zero]) == 0.125


def test_deviation_looks_at_every_part_of_a_large_tensor(monkeypatch):
    monkeypatch.setattr(problem, "_CHUNK", 7)
    exact = torch.ones(5, 4).double()
    for place in range(20):
        found = exact.clone()
        found.view(-1)[place] += 0.5
        assert problem.deviation([found], [exact]) == 0.5
