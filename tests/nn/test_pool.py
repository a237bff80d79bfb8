import pytest
import torch

from batchnorm import Moments
from batchnorm.moments import Estimate
from batchnorm.nn.pool import Pool


def estimate(rows):
    return Moments.of(torch.tensor(rows)).estimate()


def assert_pool(pool, count, mean, m2, effective, batches):
    for found, expected in zip(pool.moments, (count, mean, m2, effective), strict=True):
        torch.testing.assert_close(found, torch.tensor(expected))
    assert pool.batches.item() == batches


ONE = [[1.0, 10.0], [3.0, 10.0]]
TWO = [[5.0, 4.0], [7.0, 4.0], [9.0, 4.0]]


def test_empty_pool_holds_nothing():
    pool = Pool.empty(torch.ones(2, dtype=torch.float64))
    assert [t.tolist() for t in pool.moments] == [[0.0, 0.0]] * 4
    assert pool.moments.mean.dtype is torch.float64
    assert not pool.moments.estimate().known.any()


def test_pool_merges_what_is_added():
    """δ² n m / (n + m): 25·6/5 = 30 and 36·6/5 = 43.2."""
    pool = Pool.empty(torch.zeros(2))
    pool.add_(estimate(ONE), None)
    assert_pool(pool, [2.0, 2.0], [2.0, 10.0], [2.0, 0.0], [2.0, 2.0], 1)
    pool.add_(estimate(TWO), None)
    assert_pool(pool, [5.0, 5.0], [5.0, 6.4], [2 + 8 + 30.0, 43.2], [5.0, 5.0], 2)


def test_skipped_channels_are_not_looked_at():
    pool = Pool.empty(torch.zeros(2))
    pool.add_(estimate(ONE), torch.tensor([False, False]))
    bad = [[5.0, torch.nan], [7.0, 4.0], [9.0, torch.inf]]
    pool.add_(estimate(bad), torch.tensor([False, True]))
    assert_pool(pool, [5.0, 2.0], [5.0, 10.0], [40.0, 0.0], [5.0, 2.0], 2)


def test_single_value_has_a_mean_and_is_no_batch():
    pool = Pool.empty(torch.zeros(1))
    for value in (1.0, 3.0):
        pool.add_(Estimate(torch.tensor([value]), torch.tensor([torch.nan]), 1, 1), None)
    assert_pool(pool, [2.0], [2.0], [2.0], [2.0], 0)


@pytest.mark.parametrize("order", [(ONE, TWO), (TWO, ONE)], ids=["one, two", "two, one"])
def test_joined_pools_hold_what_both_hold(order):
    pools = [Pool.empty(torch.zeros(2)) for _ in order]
    for pool, rows in zip(pools, order, strict=True):
        pool.add_(estimate(rows), None)
    pools[0].join_(Pool.empty(torch.zeros(2)))
    pools[0].join_(pools[1])
    assert_pool(pools[0], [5.0, 5.0], [5.0, 6.4], [40.0, 43.2], [5.0, 5.0], 2)


def test_pool_is_changed_in_place():
    pool = Pool.empty(torch.zeros(2))
    tensors = [*pool.moments, pool.batches]
    pool.add_(estimate(ONE), torch.tensor([False, True]))
    assert all(t is u for t, u in zip([*pool.moments, pool.batches], tensors, strict=True))
    assert tensors[1].tolist() == [2.0, 0.0]
