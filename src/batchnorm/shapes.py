"""Where the channel is: the only file that knows it is axis 1 of (N, C, *S).

Letters used everywhere: N samples, C channels, S spatial positions, K chunks (virtual batches).
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from .errors import OptionError, ShapeError

FEW = 1024
"""Of so many values even the farthest is at most 32 = √1024 standard deviations off the mean."""


def num_channels(x: Tensor) -> int:
    """Size of the channel axis."""
    return x.shape[1]


def reduce_dims(ndim: int) -> tuple[int, ...]:
    """Axes a per-channel reduction of an (N, C, *S) tensor runs over.

    Example:
        >>> reduce_dims(4)
        (0, 2, 3)
    """
    return (0, *range(2, ndim))


def count_per_channel(shape: Sequence[int]) -> int:
    """Number of values of one channel: N times the number of positions.

    Example:
        >>> count_per_channel((8, 3, 5, 5))
        200
    """
    count = shape[0]
    for size in shape[2:]:
        count *= size
    return count


def as_channels(vector: Tensor, ndim: int) -> Tensor:
    """View a (C,) vector as (C, 1, ...), to broadcast against an input of `ndim` axes."""
    return vector.view(-1, *(1,) * (ndim - 2)) if ndim > 2 else vector


def typical_values(x: Tensor) -> Tensor:
    """One value of every channel that is unlikely to be far from its mean, (C,).

    A shift by it makes a large mean small; being a value of the channel, it turns a constant
    channel into exact zeros. Of many values the median of three is taken: a single one could be an
    outlier, and shifting by that would be the large mean it is to prevent.
    """
    first = _values_at(x, 0.0)
    if count_per_channel(x.shape) <= FEW:
        return first
    middle, last = _values_at(x, 0.5), _values_at(x, 1.0)
    low, high = torch.minimum(first, middle), torch.maximum(first, middle)
    return torch.maximum(low, torch.minimum(high, last))


def _values_at(x: Tensor, place: float) -> Tensor:
    """The values of every channel at the beginning (0), middle or end (1) of all other axes."""
    x = x.select(0, round(place * (x.shape[0] - 1)))
    while x.dim() > 1:
        x = x.select(1, round(place * (x.shape[1] - 1)))
    return x


def fold_chunks(x: Tensor, chunks: int) -> Tensor:
    """Turn K equal chunks of consecutive samples into channels: (N, C, *S) -> (N/K, K·C, *S)."""
    samples, channels, *positions = x.shape
    each = samples // chunks
    split = x.view(chunks, each, channels, *positions).transpose(0, 1)
    return split.reshape(each, chunks * channels, *positions)


def unfold_chunks(folded: Tensor, like: Tensor) -> Tensor:
    """Undo `fold_chunks`, in the shape and the memory format of `like`."""
    split = folded.view(folded.shape[0], -1, *like.shape[1:]).transpose(0, 1)
    return split.reshape(like.shape).contiguous(memory_format=memory_format(like))


def fold_vector(vector: Tensor | None, chunks: int) -> Tensor | None:
    """Repeat a (C,) vector for each chunk that `fold_chunks` has made a set of channels."""
    return None if vector is None else vector.expand(chunks, -1).reshape(-1)


def memory_format(x: Tensor) -> torch.memory_format:
    """Say whether the channel of a dense tensor is its innermost axis."""
    innermost = {4: torch.channels_last, 5: torch.channels_last_3d}.get(x.dim())
    if innermost is None or x.is_contiguous() or not x.is_contiguous(memory_format=innermost):
        return torch.contiguous_format
    return innermost


def virtual_batches(shape: Sequence[int], size: int) -> list[tuple[int, int]]:
    """Plan ceil(N / size) chunks of consecutive samples, their sizes as even as possible.

    A chunk with one value per channel has no variance, so where there is no spatial axis every
    chunk has at least two samples, even if that takes fewer chunks.

    Args:
        shape: Shape of the input.
        size: Samples per chunk that were asked for.

    Returns:
        Runs of equal chunks in the order of the samples: (samples in the run, chunks in the run).

    Example:
        >>> virtual_batches((10, 3), 4)  # 4 + 3 + 3
        [(4, 1), (6, 2)]
        >>> virtual_batches((5, 3), 1)  # 3 + 2
        [(3, 1), (2, 1)]
    """
    samples, positions = shape[0], count_per_channel((1, *shape[1:]))
    chunks = -(-samples // size)
    if positions == 1:
        chunks = max(1, min(chunks, samples // 2))
    smaller, num_larger = divmod(samples, chunks)
    runs = [
        (num_larger * (smaller + 1), num_larger),
        ((chunks - num_larger) * smaller, chunks - num_larger),
    ]
    return [run for run in runs if run[0]]


def check_input(x: Tensor) -> None:
    """Refuse what is not a floating (N, C, *S) tensor.

    Raises:
        ShapeError: Fewer than two axes.
        TypeError: The values are not floating point.
    """
    if x.dim() < 2:
        raise ShapeError(
            f"expected an input with a batch and a channel axis (N, C, ...), "
            f"found shape {shape_text(x.shape)}; add the missing axis, e.g. input.unsqueeze(0)"
        )
    if not x.is_floating_point():
        raise TypeError(f"expected a floating point input, found {x.dtype}; convert it first")


def check_per_channel(x: Tensor, vectors: dict[str, Tensor | None]) -> None:
    """Refuse a vector that does not have one value for each channel of x.

    Raises:
        ShapeError: A vector is not of shape (C,); the message has its name.
    """
    expected = (x.shape[1],)
    for name, vector in vectors.items():
        if vector is not None and vector.shape != expected:
            raise ShapeError(
                f"expected {name} to have one value for each of the {x.shape[1]} channels of the "
                f"input ({shape_text(x.shape)}), found shape {shape_text(vector.shape)}"
            )


def check_virtual_batch_size(size: int | None) -> None:
    """Refuse a virtual batch size that is not None or a positive int.

    Raises:
        OptionError: It is something else; True is not taken for 1.
    """
    if size is None or (type(size) is int and size >= 1):
        return
    raise OptionError(
        f"expected virtual_batch_size to be None or a positive int (samples per chunk), "
        f"found {size!r}"
    )


def shape_text(shape: Sequence[int]) -> str:
    """Print a shape the way messages show it.

    Example:
        >>> shape_text((1, 512, 1, 1))
        '1×512×1×1'
    """
    return "×".join(map(str, shape)) or "() (a scalar)"
