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


def test_the_typical_value_is_one_that_counts():
    """The median of the first, the middle and the last of them."""
    x = torch.tensor([[9.0, 1.0], [3.0, 2.0], [5.0, 3.0], [4.0, 4.0], [9.0, 5.0]])
    counted = torch.tensor([False, True, True, True, False])[:, None]
    assert shapes.typical_values(x, counted).tolist() == [4.0, 3.0]
    each = torch.stack([counted[:, 0], torch.arange(5) == 3], 1)
    assert shapes.typical_values(x, each).tolist() == [4.0, 4.0]


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("each_channel", [True, False])
def test_the_typical_value_of_few_that_count_is_found_in_every_layout(each_channel, layout):
    x = layout.arrange(torch.arange(1.0, 1 + torch.Size(layout.shape).numel()).view(layout.shape))
    samples, channels, *positions = layout.shape
    counted = torch.zeros(samples, channels if each_channel else 1, *positions).bool()
    counted[(-1, slice(None), *(-1,) * len(positions))] = True
    expected = x[(-1, slice(None), *(-1,) * len(positions))]
    assert torch.equal(shapes.typical_values(x, counted), expected)


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_positions_of_samples_and_of_their_parts_fit_the_input(layout):
    samples, _, *positions = layout.shape
    of_samples = shapes.as_positions(torch.arange(samples), len(layout.shape))
    assert of_samples.shape == (samples, *(1,) * (len(layout.shape) - 1))
    of_parts = shapes.as_positions(torch.ones(samples, *positions), len(layout.shape))
    assert of_parts.shape == (samples, 1, *positions)
    assert torch.equal(of_samples.flatten(), torch.arange(samples))


def test_a_vector_is_repeated_for_every_chunk():
    vector = torch.tensor([1.0, 2.0])
    assert shapes.fold_vector(vector, 3).tolist() == [1, 2, 1, 2, 1, 2]
    assert shapes.fold_vector(None, 3) is None


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_memory_format_says_whether_the_channel_is_innermost(layout):
    x = layout.arrange(torch.ones(layout.shape))
    found = shapes.memory_format(x)
    innermost = layout.memory == "channels_last" and len(layout.shape) in (4, 5)
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    ambiguous = x.is_contiguous()
    expected = formats[x.dim()] if innermost and not ambiguous else torch.contiguous_format
    assert found is expected
