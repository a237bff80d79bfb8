"""Where the channel is: the only file that knows it is axis 1 of (N, C, *S).

Letters used everywhere: N samples, C channels, S spatial positions, K chunks (virtual batches).
"""

from collections.abc import Sequence

import torch
from torch import Tensor

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


def as_positions(tensor: Tensor, ndim: int) -> Tensor:
    """View (N,) or (N, *S) as (N, 1, ...), to broadcast against an input of `ndim` axes."""
    if tensor.dim() == 1:
        return tensor.view(-1, *(1,) * (ndim - 1))
    return tensor.unsqueeze(1)


def of_groups(share: Tensor, x: Tensor) -> Tensor:
    """Make (N, G, *S), for G groups of neighboring channels, broadcast against (N, C, *S)."""
    if share.dim() < 2 or share.shape[1] == 1:
        return share
    return share.repeat_interleave(num_channels(x) // share.shape[1], 1)


def typical_values(x: Tensor, counted: Tensor | None = None) -> Tensor:
    """One value of every channel that is unlikely to be far from its mean, (C,).

    A shift by it makes a large mean small; being a value of the channel, it turns a constant
    channel into exact zeros. Of many values the median of three is taken: a single one could be an
    outlier, and shifting by that would be the large mean it is to prevent.

    Args:
        x: Values (N, C, *S), not empty.
        counted: Which positions to choose from, bool (N, 1, *S) or (N, C, *S); None for all.
            0 in a channel that has none.
    """
    if counted is not None:
        return _counted_values(x, counted).sort(1).values[:, 1]
    first = _values_at(x, "first")
    # A graph is to be the same for any number of values; and of an exported one, torch cannot prove
    # that there is a middle.
    compiling, exporting = torch.compiler.is_compiling(), torch.compiler.is_exporting()
    if exporting or (not compiling and count_per_channel(x.shape) <= FEW):
        return first
    middle, last = _values_at(x, "middle"), _values_at(x, "last")
    low, high = torch.minimum(first, middle), torch.maximum(first, middle)
    return torch.maximum(low, torch.minimum(high, last))


def _values_at(x: Tensor, place: str) -> Tensor:
    """The values of every channel at the first, middle or last place of all other axes."""
    x = x.movedim(1, 0)
    while x.dim() > 1:
        x = x.select(1, {"first": 0, "middle": x.shape[1] // 2, "last": -1}[place])
    return x


def _counted_values(x: Tensor, counted: Tensor) -> Tensor:
    """The first, the middle and the last counted value of every channel, (C, 3)."""
    rank = counted.movedim(1, 0).flatten(1).cumsum(1)
    last = rank[:, -1:]
    wanted = torch.cat([torch.ones_like(last), (last + 1) // 2, last], 1)
    flat = torch.searchsorted(rank, wanted).clamp(max=rank.shape[1] - 1)
    # torch.unravel_index would make the sizes conditions of a compiled graph.
    position: list[Tensor] = []
    for size in reversed(x.shape[2:]):
        position.insert(0, flat % size)
        flat = flat // size
    channel = torch.arange(x.shape[1], device=x.device)[:, None]
    return torch.where(last > 0, x[flat, channel, *position], 0)


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
    if not torch.compiler.is_compiling() and torch._C._functorch.is_functorch_wrapped_tensor(x):
        return torch.contiguous_format  # under vmap it cannot be asked
    if innermost is None or x.is_contiguous() or not x.is_contiguous(memory_format=innermost):
        return torch.contiguous_format
    return innermost


def unambiguous(x: Tensor) -> Tensor:
    """View a dense tensor with the strides a new one has, also where a size is 1.

    There any stride is right, and some of PyTorch's kernels conclude from it that the channel is
    innermost where others do not: together they compute a wrong gradient (pytorch#63224).
    """
    if x.dim() < 4 or 1 not in x.shape:
        return x
    if x.is_contiguous():
        return x.view(x.shape)
    if memory_format(x) is torch.contiguous_format:
        return x
    last = x.movedim(1, -1)
    return last.view(last.shape).movedim(-1, 1)


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
