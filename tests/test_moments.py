from functools import reduce

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from batchnorm import Moments, reference
from batchnorm.errors import ShapeError
from cases import DTYPES, LAYOUTS


def assert_same(ours, exact, rtol):
    for a, b in zip(ours, exact, strict=True):
        torch.testing.assert_close(
            a.double(), torch.as_tensor(b).double().expand_as(a), rtol=rtol, atol=rtol
        )


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_of_agrees_with_reference(layout, dtype):
    x = layout.arrange(torch.randn(layout.shape).to(dtype))
    ours = Moments.of(x)[:3]
    wide = torch.float64 if dtype is torch.float64 else torch.float32
    assert {t.dtype for t in ours} == {wide}
    assert_same(ours, reference.moments(x)[:3], 64 * torch.finfo(wide).eps)


@settings(deadline=None, max_examples=50, derandomize=True)
@given(
    st.lists(st.integers(0, 5), min_size=1, max_size=6),
    st.sampled_from([0.0, 1e3, 1e6]),
    st.integers(0, 1000),
)
def test_merge_of_parts_is_the_moments_of_the_whole(sizes, offset, seed):
    x = (
        offset
        + torch.randn(sum(sizes), 3, 2, generator=torch.Generator().manual_seed(seed)).double()
    )
    parts = [Moments.of(part) for part in torch.split(x, sizes)]
    merged, whole = reduce(Moments.merge, parts), Moments.of(x)
    assert torch.equal(merged.count, whole.count)
    torch.testing.assert_close(merged.mean, whole.mean, rtol=1e-15, atol=1e-13)
    torch.testing.assert_close(merged.m2, whole.m2, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("order", ["empty.merge(full)", "full.merge(empty)"])
def test_merge_with_nothing_changes_nothing(order):
    full = Moments.of(torch.tensor([[1e6, 0.1], [1e6 + 1, 0.1]]))
    empty = Moments.of(torch.empty(0, 2))
    merged = empty.merge(full) if order.startswith("empty") else full.merge(empty)
    assert all(torch.equal(a, b) for a, b in zip(merged[:3], full[:3], strict=True))


def test_merge_of_nothing_with_nothing_is_nothing():
    merged = Moments.zeros(2).merge(Moments.zeros(2))
    assert all(torch.equal(t, torch.zeros(2)) for t in merged[:3])


def test_merge_agrees_with_reference_on_values_worked_out_by_hand():
    one, two = torch.tensor([[1.0], [3.0]]), torch.tensor([[8.0]])
    merged = Moments.of(one).merge(Moments.of(two))
    assert [t.item() for t in merged[:3]] == [3, 4, 26]
    exact = reference.merge(reference.moments(one), reference.moments(two))
    assert_same(merged[:3], exact[:3], 0)


def test_var_divides_by_count_less_correction():
    moments = Moments.of(torch.tensor([[1.0], [3.0], [8.0]]))
    torch.testing.assert_close(moments.var().item(), 26 / 3)
    assert moments.var(correction=1).item() == 13


@pytest.mark.parametrize(("count", "correction"), [(0, 0), (0, 1), (1, 1)])
def test_var_without_degrees_of_freedom_is_nan(count, correction):
    assert Moments.of(torch.ones(count, 2)).var(correction).isnan().all()


def test_float32_moments_survive_a_large_mean():
    """E[x²] − E[x]² has no correct digit here."""
    x = (1e6 + torch.randn(256, 4, generator=torch.Generator().manual_seed(0))).float()
    parts = [Moments.of(part) for part in torch.split(x, [1, 100, 55, 100])]
    merged = reduce(Moments.merge, parts)
    exact = x.double().var(0)
    torch.testing.assert_close(Moments.of(x).var(1).double(), exact, rtol=1e-5, atol=0)
    torch.testing.assert_close(merged.var(1).double(), exact, rtol=5e-2, atol=0)


def test_of_is_differentiable():
    x = torch.randn(4, 2, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: Moments.of(x)[1:3], (x,))


def test_of_refuses_a_vector():
    with pytest.raises(ShapeError, match=r"\(N, C, ...\), found shape 3"):
        Moments.of(torch.zeros(3))
