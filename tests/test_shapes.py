import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from batchnorm import reference, shapes
from cases import LAYOUTS


@given(st.integers(1, 200), st.integers(1, 3), st.integers(1, 250))
def test_virtual_batches_are_even_and_never_of_one_value(samples, positions, size):
    runs = shapes.virtual_batches((samples, 7, positions), size)
    sizes = [rows // chunks for rows, chunks in runs for _ in range(chunks)]
    assert sizes == reference.chunk_sizes(samples, positions, size)
    assert sum(sizes) == samples
    assert max(sizes) - min(sizes) <= 1
    assert min(sizes) * positions >= 2 or len(sizes) == 1


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_chunks_become_channels_and_back(layout):
    x = layout.arrange(torch.randn(layout.shape)).repeat(3, *(1,) * (len(layout.shape) - 1))
    folded = shapes.fold_chunks(x, 3)
    channels = layout.shape[1]
    assert torch.equal(folded[:, :channels], x[: layout.shape[0]])
    assert torch.equal(folded[:, -channels:], x[-layout.shape[0] :])
    assert torch.equal(shapes.unfold_chunks(folded, x), x)


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_count_and_reduce_dims_leave_only_the_channel(layout):
    x = layout.arrange(torch.ones(layout.shape))
    total = x.sum(shapes.reduce_dims(x.dim()))
    assert torch.equal(
        total, torch.full((layout.shape[1],), shapes.count_per_channel(x.shape) * 1.0)
    )
    assert shapes.as_channels(total, x.dim()).expand_as(x).shape == x.shape
    assert torch.equal(shapes.typical_values(x), torch.ones(layout.shape[1]))


def test_the_typical_value_of_many_is_not_an_outlier():
    x = torch.zeros(shapes.FEW + 1, 4)
    x[0], x[len(x) // 2], x[-1] = (
        torch.tensor([9.0, 1.0, 1.0, 1.0]),
        torch.tensor([1.0, 9.0, 2.0, 1.0]),
        torch.tensor([2.0, 2.0, 9.0, 1.0]),
    )
    assert shapes.typical_values(x).tolist() == [2.0, 2.0, 2.0, 1.0]
