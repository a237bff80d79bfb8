"""The implementation against the specification, by every route, for every kind of problem."""

import itertools

import pytest
import torch

from batchnorm import reference
from batchnorm.errors import StatisticsError
from cases import ALL_ROUTES, DTYPES, GPU, LAYOUTS, TRITON, take_route
from covering import covering, pairs, seen
from kinds import AFFINES, AXES, HIDES, LIMITS, MODES, REFUSED, Kind
from problems import EPS, assert_parity, make_problem, our_way, solve

CASES = covering(AXES, HIDES, lambda case: not Kind(**case).is_refused, REFUSED)
KINDS = [Kind(**case) for case in CASES] + [
    # Every layout with and without weight and bias in turn.
    Kind(layout.shape, layout.memory, mode, affine)
    for layout, affine in zip(LAYOUTS, itertools.cycle(AFFINES), strict=False)
    for mode in MODES
]

each_route = pytest.mark.parametrize("route", [*ALL_ROUTES, *TRITON])


def each_route_with(*dtypes):
    """Every route with every dtype that it is for."""
    of_all = [(route, dtype) for dtype in dtypes for route in ALL_ROUTES]
    of_gpus = [
        pytest.param(*param.values, dtype, marks=param.marks)
        for dtype in dtypes
        if dtype is not torch.float64
        for param in TRITON
    ]
    return pytest.mark.parametrize(("route", "dtype"), [*of_all, *of_gpus], ids=str)


def device_of(route):
    return "cuda" if route == GPU else "cpu"


def test_every_pair_of_values_is_seen_in_some_case():
    assert set(pairs(AXES)) - set(REFUSED) <= set().union(*(seen(case, HIDES) for case in CASES))


def test_renormalization_is_clipped_in_some_channels_and_not_in_others():
    """The problems would not show a limit that is forgotten otherwise."""
    corrections = []
    for shape in AXES["shape"]:
        x, _, running, *_ = make_problem(Kind(shape), torch.float64)
        statistics = *reference.statistics(x), *running
        corrections.append(torch.stack(reference.renorm(*statistics, *LIMITS["clipping"], EPS)))
    r_max, d_max = LIMITS["clipping"]
    for values, low, high in zip(
        torch.cat(corrections, 1), (1 / r_max, -d_max), (r_max, d_max), strict=True
    ):
        assert (values == low).any()
        assert (values == high).any()
        assert ((values > low) & (values < high)).any()


@each_route_with(*DTYPES)
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_batch_norm_agrees_with_reference(kind, dtype, route, monkeypatch):
    take_route(monkeypatch, route)
    assert_parity(kind, make_problem(kind, dtype), device_of(route))


@each_route_with(*DTYPES[:2])
@pytest.mark.parametrize(
    ("mean", "std"), [(1e6, 1), (1e3, 1e-3), (-1e6, 1e-2), (0, 1e-40), (0, 1e15)]
)
@pytest.mark.parametrize(
    "kind",
    [
        Kind((64, 3)),
        Kind((8, 3, 4, 4), "channels_last"),
        Kind((8, 3, 4, 4), mask="nan", weights="positions", renorm="clipping"),
        Kind((9, 3, 8), mode="virtual2", mask="chunk", weights="zeros", residual="same"),
    ],
    ids=str,
)
def test_batch_norm_agrees_with_reference_on_hostile_scales(
    kind, mean, std, dtype, route, monkeypatch
):
    take_route(monkeypatch, route)
    assert_parity(kind, make_problem(kind, dtype, mean, std), device_of(route))


@pytest.mark.parametrize("route", ALL_ROUTES)
@pytest.mark.parametrize(("one", "other"), REFUSED, ids=str)
@pytest.mark.parametrize("mode", ["train", "virtual2", "virtual3"])
def test_one_value_that_counts_is_refused(one, other, mode, route, monkeypatch):
    take_route(monkeypatch, route)
    kind = Kind(**({"shape": (6, 4, 2), "mode": mode} | dict((one, other))))
    assert kind.is_refused
    problem = make_problem(kind, torch.float32)
    before = [t.clone() for t in problem.running]
    with pytest.raises(StatisticsError, match="more than 1 value per channel"):
        solve_in_place(kind, problem)
    assert all(map(torch.equal, problem.running, before))


@each_route
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("mask", AXES["mask"][1:])
@pytest.mark.parametrize("activation", [None, "sigmoid", "gelu"])
def test_masked_positions_are_zero_and_have_no_gradient(activation, mask, mode, route, monkeypatch):
    """Zero, not small: with a sigmoid, a residual and NaN in all the tensors there."""
    take_route(monkeypatch, route)
    kind = Kind(
        (7, 3, 4),
        mode=mode,
        mask=mask,
        activation=activation,
        residual="same",
        degenerate="running",
    )
    problem = make_problem(kind, torch.float32)
    solution = solve(our_way(kind), problem, device_of(route))
    for name in ("output", "grad_input", "grad_residual"):
        there = solution[name].movedim(1, -1)[~problem.mask]
        assert torch.equal(there, torch.zeros_like(there)), name


@pytest.mark.parametrize("route", [*ALL_ROUTES, *TRITON[:2]])
@pytest.mark.parametrize("mode", MODES)
def test_no_argument_is_changed_but_the_running_statistics_in_training(mode, route, monkeypatch):
    take_route(monkeypatch, route)
    kind = Kind((7, 3, 9), "every_other", mode, mask="nan", weights="zeros", residual="same")
    problem = make_problem(kind, torch.float32)
    tensors = [t for t in problem if isinstance(t, torch.Tensor)]
    before = [t.clone() for t in tensors]
    versions = [t._version for t in (*tensors, *problem.running)]
    solve_in_place(kind, problem)
    for tensor, old in zip(tensors, before, strict=True):
        assert torch.equal(tensor.nan_to_num(9.0), old.nan_to_num(9.0))
    written = [t._version - v for t, v in zip((*tensors, *problem.running), versions, strict=True)]
    assert written[:-2] == [0] * len(tensors)
    assert all(written[-2:]) is kind.training


def solve_in_place(kind, problem):
    x, _, running, weight, bias, residual, mask, sample_weight = problem
    our_way(kind)(x, *running, weight, bias, residual, mask, sample_weight)
