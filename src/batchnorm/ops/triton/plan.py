"""How a tensor is cut into programs.

A dense tensor is a matrix in memory. Either a channel is a run of neighboring columns in each row
(planes), or a column is a lane of its own, and `inner` neighboring lanes belong to a channel: 1
where the channel is the innermost axis. A program has a rectangle: one run, or a block of lanes,
over a range of rows; it goes through it tile by tile.
"""

from typing import NamedTuple

from ..contract import Sizes


class Device(NamedTuple):
    """What a plan depends on.

    Args:
        processors: Multiprocessors.
        cache: Bytes of the last-level cache.
    """

    processors: int
    cache: int


class Plan(NamedTuple):
    """How to cut.

    Args:
        planes: Whether a channel is a run in each row.
        rows: Number of rows.
        columns: Length of a run, or of a row.
        channels: Number of channels.
        inner: Lanes of a channel; 1 with planes.
        tile_rows: Rows of a tile, a power of two.
        tile_columns: Columns of a tile, a power of two of at least 8.
        row_splits: Ranges that the rows are cut into.
        column_splits: Ranges that a run is cut into; 1 without planes.
        split_rows: Rows of a range.
        split_tiles: Tiles beside one another in a range.
        warps: Warps of a program.
    """

    planes: bool
    rows: int
    columns: int
    channels: int
    inner: int
    tile_rows: int
    tile_columns: int
    row_splits: int
    column_splits: int
    split_rows: int
    split_tiles: int
    warps: int

    @property
    def blocks(self) -> int:
        """Runs, or blocks of lanes."""
        return self.channels if self.planes else _ceil(self.columns, self.tile_columns)

    @property
    def splits(self) -> int:
        """Programs that share a block."""
        return self.row_splits * self.column_splits

    @property
    def lanes(self) -> int:
        """What has sums of its own."""
        return self.channels if self.planes else self.columns

    @property
    def alone(self) -> bool:
        """Whether a program has all values of its channels."""
        return self.splits == 1 and self.inner == 1

    @property
    def alignment(self) -> int:
        """A power of two that divides the places where runs or rows begin."""
        return min(self.columns & -self.columns, 16)

    @property
    def sign_bytes(self) -> int:
        """Bytes of one bit per value, every run or row filled up to whole bytes."""
        runs = self.rows * self.channels if self.planes else self.rows
        return runs * _ceil(self.columns, 8)


TILE = 2048
"""Values of a tile: 16 for each of 128 threads, whose sums fit their registers."""

WARPS = 4

PROGRAMS = 8
"""Programs for each multiprocessor: about as many as it can hold at once."""

MOST = 2**31 - 2**12
"""How far apart the values of a tile may be: their distances are 32-bit numbers."""

WIDEST = 64
"""Columns of a tile where each is a channel: 128 bytes of half precision, a line of the cache."""


def make_plan(sizes: Sizes, itemsize: int, device: Device, tensors: int = 1) -> Plan:
    """Cut a tensor.

    Args:
        sizes: As `contract.sizes` gives them.
        itemsize: Bytes of a value.
        device: What it lies on.
        tensors: How many like it are read twice.

    Example:
        >>> plan = make_plan((256, 64, 56 * 56), 4, Device(132, 50 * 2**20))
        >>> plan.blocks, plan.splits, plan.tile_rows, plan.tile_columns
        (64, 16, 8, 256)
    """
    outer, channels, inner = sizes
    planes = inner > 1 and not _is_ragged(sizes, itemsize)
    columns = inner if planes else channels * inner
    tile_columns = _run_columns(inner) if planes else _power(columns, 8, WIDEST)
    tile_rows = _power(outer, 1, TILE // tile_columns)
    while tile_rows > 1 and tile_rows * channels * inner > MOST:
        tile_rows //= 2
    blocks = channels if planes else _ceil(columns, tile_columns)
    splits = _splits(blocks, sizes, itemsize * tensors, device)
    row_splits = min(splits, _ceil(outer, tile_rows))
    split_rows = _ceil(_ceil(outer, row_splits), tile_rows) * tile_rows
    row_splits = _ceil(outer, split_rows)
    tiles = _ceil(columns, tile_columns) if planes else 1
    split_tiles = _ceil(tiles, min(max(1, round(splits / row_splits)), tiles))
    return Plan(
        planes=planes,
        rows=outer,
        columns=columns,
        channels=channels,
        inner=1 if planes else inner,
        tile_rows=tile_rows,
        tile_columns=tile_columns,
        row_splits=row_splits,
        column_splits=_ceil(tiles, split_tiles),
        split_rows=split_rows,
        split_tiles=split_tiles,
        warps=WARPS,
    )


def _is_ragged(sizes: Sizes, itemsize: int) -> bool:
    """Say whether runs are too short, or too odd, to be read by themselves.

    Then rows are read as a whole. The sums of every column cost four numbers, and another kernel,
    so it takes many rows, and a large tensor, for that to pay.
    """
    outer, channels, inner = sizes
    odd = inner < 64 or inner % 4 != 0
    return odd and outer >= 64 and outer * channels * inner * itemsize > LARGE


LARGE = 2**22
"""Bytes of a tensor that takes longer to read than a kernel takes to start."""


def _splits(blocks: int, sizes: Sizes, itemsize: int, device: Device) -> int:
    """Say how many programs are to share a block: 1 where that leaves no multiprocessor idle."""
    each = sizes[0] * sizes[1] * sizes[2] / blocks * itemsize
    if each <= ALONE:
        return 1
    # What the programs at work have read once should still be there when they read it again.
    active = min(blocks, device.processors)
    if blocks >= device.processors and active * each <= device.cache / 2:
        return 1
    return _ceil(PROGRAMS * device.processors, blocks)


ALONE = 2**15
"""Bytes that one program reads as fast as it takes to start another kernel."""


def _run_columns(length: int) -> int:
    """Choose how many columns of a run a tile has: the more, the better, if few are left empty."""
    best = _power(length, 8, 512)
    for columns in (512, 256, 128, 64):
        filled = length / (_ceil(length, columns) * columns)
        if columns <= length and filled > 0.9:
            return columns
    return best


def _power(size: int, least: int, most: int) -> int:
    """Give the power of two that is not below size, within two others."""
    return max(least, min(most, 1 << max(size - 1, 0).bit_length()))


def _ceil(a: int, b: int) -> int:
    return -(-a // b)
