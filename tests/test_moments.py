import itertools
from functools import reduce

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from batchnorm import Moments, reference
from batchnorm.errors import DtypeError, ShapeError, StatisticsError
from batchnorm.moments import center, mean_and_var
from cases import DTYPES, LAYOUTS

MASKS = (None, "samples", "positions", "all")
WEIGHTS = (None, "samples", "positions", "zeros", "tiny", "huge")
NAN = float("nan")


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def make_mask(kind, shape):
    positions = torch.zeros(shape[0], *shape[2:])
    if kind == "samples":
        return torch.arange(shape[0]) % 3 != 1
    if kind == "positions":
        return randn(*positions.shape, seed=1) > -0.5
    return None if kind is None else torch.zeros_like(positions).bool()


def make_weights(kind, shape, dtype):
    if kind is None:
        return None
    weights = randn(shape[0], *shape[2:], seed=2).square() + 0.1
    if kind == "samples":
        return weights.view(shape[0], -1).sum(1).to(dtype)
    if kind == "zeros":
        weights = (weights - 0.6).clamp(min=0)
        weights.view(-1)[0] = 1
    return weights.to(dtype) * {"tiny": 1e-20, "huge": 1e20}.get(kind, 1)


def assert_same(ours, exact, rtol):
    for a, b in zip(ours, exact, strict=True):
        torch.testing.assert_close(
            a.double(), torch.as_tensor(b, dtype=torch.float64).expand_as(a), rtol=rtol, atol=rtol
        )


def assert_moments(ours, exact, rtol):
    """Count and m2 may be of any magnitude; that of one value is 0, or an ulp squared."""
    effective = ours.count if ours.effective is None else ours.effective
    for name, our, its in zip(Moments._fields, (*ours[:3], effective), exact, strict=True):
        torch.testing.assert_close(
            our.double(),
            its,
            rtol=rtol,
            atol={"mean": rtol, "m2": rtol**2 * float(exact[0].max())}.get(name, 0),
            msg=lambda text, name=name: f"{name}: {text}",
        )


PROBLEMS = [
    *((None, None, layout) for layout in LAYOUTS),
    *(
        (mask, weights, layout)
        for (mask, weights), layout in zip(
            itertools.product(MASKS, WEIGHTS), itertools.cycle(LAYOUTS), strict=False
        )
    ),
]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("mask", "weights", "layout"), PROBLEMS, ids=str)
def test_of_agrees_with_reference(mask, weights, layout, dtype):
    x = layout.arrange(randn(*layout.shape).to(dtype))
    wide = torch.promote_types(dtype, torch.float32)
    mask, weights = make_mask(mask, layout.shape), make_weights(weights, layout.shape, wide)
    if mask is not None and weights is not None and not reference.weights(x, mask, weights).any():
        mask = None
    if mask is not None:
        x.movedim(1, -1)[~mask] = NAN
    ours = Moments.of(x, mask, weights)
    assert {t.dtype for t in ours if t is not None} == {wide}
    assert (ours.effective is None) is (weights is None)
    exact = reference.moments(x, reference.weights(x, mask, weights))
    assert_moments(ours, exact, 64 * torch.finfo(wide).eps)


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


def test_merge_of_weighted_parts_is_the_moments_of_the_whole():
    """Weights differ by ten orders of magnitude between the parts; some parts have none."""
    x, mask = randn(24, 3, 2), make_mask("positions", (24, 3, 2))
    weights = make_weights("zeros", (24, 3, 2), torch.float64)
    weights[:8] *= 1e-5
    weights[8:12] *= 1e5
    weights[12] = 1
    mask[13:15], mask[15:18] = True, False
    sizes = [3, 5, 4, 1, 2, 3, 6]
    parts = [
        Moments.of(part, part_mask, part_weights)
        for part, part_mask, part_weights in zip(
            *(torch.split(t, sizes) for t in (x, mask, weights)), strict=True
        )
    ]
    exact = reference.moments(x, reference.weights(x, mask, weights))
    assert_moments(reduce(Moments.merge, parts), exact, 1e-12)
    assert_moments(reduce(Moments.merge, parts[::-1], Moments.zeros(3)), exact, 1e-12)


@pytest.mark.parametrize("order", [1, -1])
def test_merge_of_weighted_with_unweighted_takes_those_for_weights_of_1(order):
    x, weights = randn(10, 3), torch.ones(10, dtype=torch.float64)
    weights[6:] = 3
    one, other = (Moments.of(x[:6]), Moments.of(x[6:], sample_weight=weights[6:]))[::order]
    assert_moments(one.merge(other), reference.moments(x, weights), 1e-13)


def test_merge_agrees_with_reference_on_effective_numbers_worked_out_by_hand():
    one = Moments.of(torch.tensor([[1.0], [5.0]]), sample_weight=torch.tensor([3.0, 1.0]))
    other = Moments.of(torch.tensor([[2.0]]), sample_weight=torch.tensor([4.0]))
    merged = one.merge(other)
    assert [t.item() for t in merged[:3]] == [8, 2, 12]
    torch.testing.assert_close(merged.effective, torch.tensor([64 / 26]))
    assert merged.var().item() == 1.5
    torch.testing.assert_close(merged.var(correction=1), torch.tensor([1.5 * 64 / (64 - 26)]))


@pytest.mark.parametrize("scale", [1e-30, 1e-10, 3.0, 1e10, 1e30])
@pytest.mark.parametrize("dtype", DTYPES[:2], ids=str)
def test_only_ratios_of_weights_matter(scale, dtype):
    """In float32 the squares of these weights vanish or overflow."""
    x, weights = randn(9, 3, 4).to(dtype), make_weights("zeros", (9, 3, 4), dtype)
    one, other = Moments.of(x, None, weights), Moments.of(x, None, weights * scale)
    rtol = 16 * torch.finfo(dtype).eps
    assert_same(other.count / scale, one.count, rtol)
    assert_same(other.effective, one.effective, rtol)
    assert_same(other.mean, one.mean, rtol)
    for correction in (0, 1):
        assert_same(other.var(correction), one.var(correction), rtol)


def test_integer_weights_are_repetitions_for_mean_and_variance():
    x, times = randn(6, 3), torch.tensor([1, 4, 0, 2, 3, 1])
    weighted, repeated = (
        Moments.of(x, None, times.double()),
        Moments.of(x.repeat_interleave(times, 0)),
    )
    assert torch.equal(weighted.count, repeated.count)
    assert_same(weighted.mean, repeated.mean, 1e-14)
    assert_same(weighted.m2, repeated.m2, 1e-13)
    assert_same(weighted.var(), repeated.var(), 1e-14)
    assert_same(weighted.effective, [121 / 31] * 3, 1e-14)


@pytest.mark.parametrize("weight", [1.0, 0.3, 7e20])
def test_equal_weights_are_none(weight):
    x = randn(7, 3)
    plain, weighted = Moments.of(x), Moments.of(x, None, torch.full((7,), weight).double())
    assert_same(weighted.effective, plain.count, 1e-14)
    assert_same(weighted.mean, plain.mean, 1e-14)
    for correction in (0, 1, 3):
        assert_same(weighted.var(correction), plain.var(correction), 1e-14)


@pytest.mark.parametrize("weight", [1.0, 0.3, 1e-20])
def test_one_weighted_value_has_exactly_one_effective_value_and_no_variance(weight):
    weights = torch.tensor([0.0, weight, 0.0])
    moments = Moments.of(torch.tensor([[1.0], [5.0], [9.0]]), None, weights)
    assert (moments.mean.item(), moments.m2.item(), moments.effective.item()) == (5, 0, 1)
    assert moments.var().item() == 0
    assert moments.var(correction=1).isnan()


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("dtype", DTYPES[:2], ids=str)
def test_an_estimate_gives_the_moments_back(dtype, weights, mask):
    shape = (9, 3, 4)
    x = randn(*shape).to(dtype)
    moments = Moments.of(x, make_mask(mask, shape), make_weights(weights, shape, dtype))
    estimate = moments.estimate()
    assert torch.equal(torch.as_tensor(estimate.known), moments.count > 0)
    exact = [t.double() for t in (*moments[:3], moments.count)]
    exact[3] = exact[0] if moments.effective is None else moments.effective.double()
    assert_moments(estimate.moments(), exact, 16 * torch.finfo(dtype).eps)


@pytest.mark.parametrize("count", [0, 1, 2])
def test_an_estimate_knows_a_variance_from_two_values_on(count):
    estimate = Moments.of(torch.ones(count, 3)).estimate()
    assert estimate.known.tolist() == [count == 2] * 3
    assert estimate.var.isnan().tolist() == [count < 2] * 3
    again = estimate.moments()
    assert again.count.tolist() == again.effective.tolist() == [count] * 3
    assert again.mean.tolist() == [min(count, 1)] * 3
    assert again.m2.tolist() == [0] * 3


@pytest.mark.parametrize("condition", [True, False])
def test_an_estimate_can_be_taken_back(condition):
    estimate = Moments.of(torch.tensor([[1.0], [3.0]])).estimate()
    taken = estimate.only_if(torch.tensor([condition]))
    assert bool(taken.known) is condition
    assert taken.moments().count.item() == 2 * condition
    assert taken.moments().m2.item() == 2 * condition


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("mask", MASKS[:3])
@pytest.mark.parametrize("weights", WEIGHTS)
def test_a_constant_channel_has_exactly_its_value_and_no_variance(weights, mask, dtype):
    shape = (9, 3, 4)
    x = torch.full(shape, 0.1, dtype=dtype)
    moments = Moments.of(x, make_mask(mask, shape), make_weights(weights, shape, torch.float64))
    assert torch.equal(moments.mean, x[0, :, 0].to(moments.mean.dtype))
    assert torch.equal(moments.m2, torch.zeros_like(moments.m2))
    assert torch.equal(moments.var(correction=1), torch.zeros_like(moments.m2))


@pytest.mark.parametrize("mask", MASKS[:3])
@pytest.mark.parametrize("weights", WEIGHTS)
def test_float32_moments_survive_a_large_mean(weights, mask):
    """E[x²] − E[x]² has no correct digit here."""
    x = (1e6 + randn(256, 4)).float()
    mask, weights = make_mask(mask, x.shape), make_weights(weights, x.shape, torch.float32)
    exact = reference.moments(x, reference.weights(x, mask, weights))
    assert_moments(Moments.of(x, mask, weights), exact, 1e-5)
    sizes = [1, 100, 55, 100]
    parts = (
        [None] * len(sizes) if t is None else torch.split(t, sizes) for t in (x, mask, weights)
    )
    merged = reduce(Moments.merge, map(Moments.of, *parts), Moments.zeros(4))
    # A mean of a part is good to an ulp, 1/16 at this size.
    torch.testing.assert_close(merged.var(1).double(), reference.var(exact, 1), rtol=5e-2, atol=0)


@pytest.mark.parametrize("share", [None, "one channel", "every channel"])
def test_center_subtracts_the_mean(share):
    x = 1e3 + randn(5, 3, 4)
    w = torch.ones(5, 4).double() if share is None else make_weights("zeros", x.shape, x.dtype)
    shares = (w / w.sum()).unsqueeze(1)
    shares = {None: None, "one channel": shares, "every channel": shares.expand_as(x)}[share]
    mean, var = reference.statistics(x, w)
    centered, *statistics = center(x, shares)
    assert_same(statistics, (mean, var), 1e-12)
    assert_same(mean_and_var(x, shares), (mean, var), 1e-12)
    torch.testing.assert_close(centered, x - mean[:, None], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("weights", WEIGHTS[:4])
@pytest.mark.parametrize("mask", MASKS)
def test_of_is_differentiable(mask, weights):
    shape = (4, 2, 3)
    x = randn(*shape).requires_grad_()
    mask, weights = make_mask(mask, shape), make_weights(weights, shape, torch.float64)
    assert torch.autograd.gradcheck(lambda x: Moments.of(x, mask, weights)[1:3], (x,))


def test_masked_values_have_no_gradient_even_as_nan():
    x = torch.tensor([[1.0], [3.0], [NAN]], requires_grad=True)
    Moments.of(x, torch.tensor([True, True, False])).m2.backward()
    assert torch.equal(x.grad, torch.tensor([[-2.0], [2.0], [0.0]]))


def test_of_nothing_is_zero():
    for moments in (
        Moments.of(torch.empty(0, 2)),
        Moments.of(torch.empty(3, 2, 0), sample_weight=torch.ones(3)),
        Moments.of(torch.full((3, 2), NAN), mask=torch.zeros(3).bool()),
        Moments.of(torch.full((3, 2), NAN), torch.zeros(3).bool(), torch.ones(3)),
        Moments.zeros(2),
    ):
        given = [t for t in moments if t is not None]
        assert all(torch.equal(t, torch.zeros(2)) for t in given)


@pytest.mark.parametrize("dtype", DTYPES[:2], ids=str)
def test_zeros_are_of_the_dtype_asked_for(dtype):
    assert {t.dtype for t in Moments.zeros(2, dtype=dtype)[:3]} == {dtype}


@pytest.mark.parametrize(
    ("error", "match", "arguments"),
    [
        (ShapeError, r"\(N, C, ...\), found shape 3", (torch.zeros(3),)),
        (ShapeError, "mask of shape 2 or 2×4", (torch.zeros(2, 3, 4), torch.zeros(2, 3).bool())),
        (DtypeError, "boolean mask", (torch.zeros(2, 3), torch.zeros(2))),
        (ShapeError, "sample_weight of shape 2", (torch.zeros(2, 3), None, torch.zeros(3))),
        (DtypeError, "sample_weight", (torch.zeros(2, 3), None, torch.ones(2).int())),
        (StatisticsError, "from -1 to 2", (torch.zeros(2, 3), None, torch.tensor([-1.0, 2.0]))),
        (StatisticsError, "0 everywhere", (torch.zeros(2, 3), None, torch.zeros(2))),
    ],
)
def test_of_refuses_what_does_not_fit(error, match, arguments):
    with pytest.raises(error, match=match):
        Moments.of(*arguments)
