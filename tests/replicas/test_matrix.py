"""World size × split × every kind of call, against the specification on the whole batch."""

import math

import pytest
import torch

from batchnorm.errors import StatisticsError
from cases import DTYPES
from covering import covering
from kinds import AXES, HIDES, REFUSED, Kind
from problems import assert_close_to_exact

from .shards import SPLITS, Shared, join, sizes, solve_shard
from .world import Worlds, needs_gloo

pytestmark = needs_gloo

WORLDS = (1, 2, 3)
OWN_AXES = {"dtype": list(DTYPES), "split": list(SPLITS)}
TRAIN_AXES = {**AXES, "mode": ["train"], **OWN_AXES}
DROPPED = ("dtype", "split")


def kind(case):
    return Kind(**{name: value for name, value in case.items() if name not in DROPPED})


ROWS = covering(TRAIN_AXES, HIDES, lambda case: not kind(case).is_refused, REFUSED)
SCALES = ((1e6, 1), (1e3, 1e-3), (-1e6, 1e-2), (0, 1e-40), (0, 1e15), (0, 6e18))
CASES = [
    *(Shared(kind(row), row["dtype"], row["split"]) for row in ROWS),
    *(
        Shared(Kind((9, 3, 4), mask=mask, weights=weights), dtype, "unequal", mean, std)
        for mean, std in SCALES
        for dtype in DTYPES[:2]
        for mask, weights in ((None, None), ("nan", "positions"))
    ),
]
SINGLE = [
    Shared(Kind((1, 4)), torch.float32, "even"),
    Shared(Kind((6, 4, 2), mask="single"), torch.float32, "even"),
    Shared(Kind((6, 4, 2), mask="single", weights="positions"), torch.float64, "unequal"),
]


@pytest.fixture(scope="module")
def solved(tmp_path_factory):
    return Worlds(solve_shard, [*CASES, *SINGLE], tmp_path_factory)


@pytest.mark.parametrize("index", range(len(CASES)), ids=lambda k: str(CASES[k]))
@pytest.mark.parametrize("world", WORLDS)
def test_replicas_compute_what_one_process_would(solved, world, index):
    case = CASES[index]
    assert_close_to_exact(case.kind, case.problem(), join(solved.results(world, index)))


@pytest.mark.parametrize("index", range(len(SINGLE)), ids=lambda k: str(SINGLE[k]))
@pytest.mark.parametrize("world", WORLDS)
def test_all_replicas_refuse_one_value_in_all(solved, world, index):
    for of_rank in solved(world):
        error = of_rank[len(CASES) + index]
        assert isinstance(error, StatisticsError), error
        assert "more than 1 value per channel" in str(error)


def test_splits_are_what_their_names_say():
    for world in WORLDS[1:]:
        for samples in (1, 2, 9, 33):
            assert all(sum(sizes(samples, world, split)) == samples for split in SPLITS)
        assert sizes(9, world, "first_empty")[0] == sizes(9, world, "last_empty")[-1] == 0
        assert len(set(sizes(9, world, "unequal"))) > 1
    assert math.prod(sizes(9, 3, "even")) == 27
