"""The merge of what replicas send, without any replica."""

import pytest
import torch

from batchnorm.ops import composite, dispatch, native
from batchnorm.ops.affine import Affine
from batchnorm.ops.merged import merge, nothing, own_part, two_sum
from batchnorm.ops.synchronized import Source, moments, normalize


class Together:
    """Replicas of which this process plays all: the others have sent their rows before."""

    size = 3

    def __init__(self, rank, parts):
        self.rank, self.parts = rank, parts

    def gather(self, row):
        return torch.stack([row if k == self.rank else p.row() for k, p in enumerate(self.parts)])

    def total(self, sums):
        raise AssertionError("there is no backward pass here")


def values(mean, std, dtype):
    generator = torch.Generator().manual_seed(0)
    return (mean + std * torch.randn(40, 3, 5, dtype=torch.float64, generator=generator)).to(dtype)


@pytest.fixture(params=[True, False], ids=["kernels", "torch"])
def by_kernels(request, monkeypatch):
    if not request.param:
        monkeypatch.setattr(native, "_library", None)
        monkeypatch.setattr(dispatch, "kernels", lambda x: composite)


@pytest.mark.usefixtures("by_kernels")
@pytest.mark.parametrize(("mean", "std"), [(0, 1), (1e3, 1), (1e6, 1), (-3e4, 1e-2)])
def test_a_large_mean_costs_no_precision(mean, std):
    """Means of replicas differ by less than one of their ulps: what is sent beside them tells."""
    x = values(mean, std, torch.float32)
    shards = x.split([25, 0, 15])
    found = merge(torch.stack([own_part(shard, None, None).row() for shard in shards]))
    wide = x.double()
    exact_mean, exact_var = wide.mean((0, 2)), wide.var((0, 2), correction=0)
    # Each mean is of values less than 8 deviations from a value of the channel: rounded to an ulp
    # of that, summed in float32 over 200 of them.
    scale = 8 * wide.std((0, 2)) * 2**-24 * 16
    assert ((found.mean.double() + found.low.double() - exact_mean).abs() <= scale).all()
    torch.testing.assert_close(found.var.double(), exact_var, rtol=2**-20, atol=0)


@pytest.mark.usefixtures("by_kernels")
@pytest.mark.parametrize("mean", [1e3, 1e6])
def test_what_normalizes_has_both_parts_of_the_mean(mean):
    x = values(mean, 1, torch.float32)
    shards = x.split([25, 0, 15])
    parts = [own_part(shard, None, None) for shard in shards]
    outputs = []
    for rank, shard in enumerate(shards):
        source = Source(Together(rank, parts), 1e-5)
        outputs.append(normalize(shard, moments(shard, source), Affine(), source))
    wide = x.double()
    expected = (wide - wide.mean((0, 2), keepdim=True)) / (
        wide.var((0, 2), correction=0, keepdim=True) + 1e-5
    ).sqrt()
    # An ulp of the mean alone would be 2^-14 at 1e3 and 2^-4 at 1e6, in standard deviations.
    torch.testing.assert_close(torch.cat(outputs).double(), expected, rtol=0, atol=2**-17)


def test_replicas_without_values_change_nothing():
    part = own_part(values(5, 2, torch.float64), None, None)
    empty = nothing(3, part.mean)
    alone = merge(part.row()[None])
    for rows in ([part, empty], [empty, part], [empty, part, empty]):
        found = merge(torch.stack([each.row() for each in rows]))
        for name in ("mean", "low", "var", "count", "effective", "values", "there"):
            assert torch.equal(getattr(found, name), getattr(alone, name)), name
    none = merge(torch.stack([empty.row(), empty.row()]))
    assert not any(t.any() for t in none)


def test_weights_merge_as_those_of_one_batch():
    x = values(1, 2, torch.float64)
    weights = torch.rand(40, 1, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    whole = merge(own_part(x, weights, None).row()[None])
    pairs = zip(x.split([7, 33]), weights.split([7, 33]), strict=True)
    parts = merge(torch.stack([own_part(*pair, None).row() for pair in pairs]))
    for name in ("mean", "var", "count", "effective", "values"):
        torch.testing.assert_close(getattr(parts, name), getattr(whole, name), msg=name)
    torch.testing.assert_close(parts.count, weights.sum())
    torch.testing.assert_close(parts.effective, weights.sum() ** 2 / weights.square().sum())


def test_what_a_sum_lacks_is_not_lost():
    a, b = torch.tensor([2.0**24, 1.0]), torch.tensor([1.0, 2.0**-30])
    total, rest = two_sum(a, b)
    assert torch.equal(total, a + b)
    assert torch.equal(total.double() + rest.double(), a.double() + b.double())
