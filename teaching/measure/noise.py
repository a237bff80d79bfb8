"""How far the statistics of a batch are from those of the population, by the size of the batch."""

from collections.abc import Iterator

import torch

from ..data import Row

SETTINGS = {
    "values": "Gaussian, mean 0, standard deviation 1, in float64",
    "spread": "standard deviation, over 20,000 batches, of the batch's mean and of its standard "
    "deviation (correction 0)",
}
SIZES = (2, 4, 8, 16, 32, 64, 128, 256)
BATCHES = 20_000


def rows(sizes: tuple[int, ...] = SIZES) -> Iterator[Row]:
    """Draw many batches of every size."""
    torch.set_num_threads(1)
    for size in sizes:
        generator = torch.Generator().manual_seed(size)
        x = torch.randn(BATCHES, size, generator=generator, dtype=torch.float64)
        mean, std = x.mean(1).std(), x.std(1, correction=0).std()
        yield {"size": size, "mean": mean.item(), "std": std.item()}
