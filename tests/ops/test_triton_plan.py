"""How tensors are cut for the GPU: every value lies in one program, and no program is too large."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from batchnorm.ops.triton import plan
from batchnorm.ops.triton.plan import Device, make_plan

H200 = Device(132, 60 * 2**20)


def rectangles(cut):
    """What each program has, as the kernels compute it: (rows, columns of the whole matrix)."""
    for block in range(cut.blocks):
        for split in range(cut.splits):
            row = split // cut.column_splits * cut.split_rows
            rows = slice(row, min(row + cut.split_rows, cut.rows))
            if cut.planes:
                width = cut.split_tiles * cut.tile_columns
                column = split % cut.column_splits * width
                end = min(column + width, cut.columns)
                yield rows, slice(block * cut.columns + column, block * cut.columns + end)
            else:
                column = block * cut.tile_columns
                yield rows, slice(column, min(column + cut.tile_columns, cut.columns))


@given(
    st.tuples(
        st.integers(1, 300), st.integers(1, 90), st.sampled_from([1, 2, 7, 49, 64, 200, 777])
    ),
    st.sampled_from([2, 4]),
    st.sampled_from([Device(1, 2**20), Device(132, 2**20), H200]),
    st.booleans(),
)
@settings(max_examples=150, deadline=None, derandomize=True, database=None)
def test_every_value_lies_in_exactly_one_program(sizes, itemsize, device, small):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan, "ALONE", 0 if small else 2**15)
        cut = make_plan(sizes, itemsize, device)
    outer, channels, inner = sizes
    width = channels * inner
    assert cut.rows * (cut.columns * channels if cut.planes else cut.columns) == outer * width
    seen = torch.zeros(outer, width, dtype=torch.int32)
    for rows, columns in rectangles(cut):
        assert rows.stop > rows.start
        assert columns.stop > columns.start
        seen[rows, columns] += 1
    assert (seen == 1).all()


@given(
    st.tuples(st.integers(1, 2**20), st.integers(1, 2**14), st.integers(1, 2**18)),
    st.sampled_from([2, 4]),
)
@settings(max_examples=300, deadline=None, derandomize=True, database=None)
def test_a_tile_is_what_the_kernels_count_on(sizes, itemsize):
    cut = make_plan(sizes, itemsize, H200)
    rows, columns = cut.tile_rows, cut.tile_columns
    assert rows & (rows - 1) == 0
    assert columns & (columns - 1) == 0
    assert columns >= 8  # bits of signs are bytes
    assert rows * columns <= plan.TILE
    # Distances within a tile are 32-bit numbers.
    row = sizes[1] * sizes[2]
    assert (rows - 1) * row + columns < 2**31 or rows == 1
    assert cut.columns % cut.alignment == 0
    assert cut.inner == 1 or not cut.planes


def test_few_channels_are_shared_by_many_programs_and_many_are_not():
    few = make_plan((256, 64, 112 * 112), 4, H200)
    assert few.planes
    assert few.blocks * few.splits >= 4 * H200.processors
    last = make_plan((256 * 56 * 56, 64, 1), 2, H200)  # the channel innermost
    assert not last.planes
    assert last.blocks * last.splits >= 4 * H200.processors
    many = make_plan((256, 1024, 14 * 14), 2, H200)
    assert many.alone


def test_what_fits_the_cache_once_is_not_read_twice_by_one_program_if_two_are_read():
    sizes = (256, 256, 14 * 14)
    assert make_plan(sizes, 4, H200).alone
    assert not make_plan(sizes, 4, H200, tensors=2).alone


def test_short_runs_are_read_as_rows_where_there_are_many():
    ragged = make_plan((256, 2048, 49), 2, H200)
    assert not ragged.planes
    assert ragged.inner == 49
    assert ragged.alignment == 16
    assert not ragged.alone
    assert make_plan((8, 2048, 49), 2, H200).planes
    assert make_plan((256, 2048, 64), 2, H200).planes


def test_small_tensors_take_one_program_a_channel():
    assert make_plan((64, 100, 1), 4, H200).alone
    assert make_plan((8, 64, 28 * 28), 4, H200).alone


def test_one_bit_per_value_is_kept_for_large_planes():
    for sizes in ((8, 16, 56 * 56), (8 * 56 * 56, 16, 1)):
        assert make_plan(sizes, 4, H200).sign_bytes * 8 == 8 * 16 * 56 * 56
