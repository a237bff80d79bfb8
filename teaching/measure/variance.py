"""How exact the ways to compute a variance in float32 are, as the mean grows beside it.

Values of standard deviation 1 around a mean of 1 to 10^7. What is true is computed in float64 from
the very float32 values that each way is given, so that rounding the data does not count.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.nn import functional

import batchnorm as bn

from ..data import Row

SETTINGS = {
    "values": "4096 per channel, float32, Gaussian, standard deviation 1",
    "error": "the largest of 64 channels, relative to the variance in float64 of the same values",
    "layout": "(N, C), as behind a linear layer; “together” is (N, C, L), a channel's values side "
    "by side",
    "threads": "1",
}
CHANNELS, VALUES = 64, 4096
RATIOS = tuple(float(f"{10 ** (half / 2):.4g}") for half in range(15))


def textbook(x: Tensor) -> Tensor:
    """E[x²] − E[x]²: one pass, two sums."""
    return (x * x).mean(0) - x.mean(0) ** 2


def welford(x: Tensor) -> Tensor:
    """Welford's: one pass, the mean and Σ(x − mean)² moved by each value."""
    mean, m2 = torch.zeros(x.shape[1]), torch.zeros(x.shape[1])
    for k, row in enumerate(x, start=1):
        delta = row - mean
        mean = mean + delta / k
        m2 = m2 + delta * (row - mean)
    return m2 / len(x)


def two_passes(x: Tensor) -> Tensor:
    """The mean first, then the mean of (x − mean)²."""
    return ((x - x.mean(0)) ** 2).mean(0)


def moments(x: Tensor) -> Tensor:
    """The mathematical core of this library, in plain torch."""
    return bn.Moments.of(x).var()


def of_layer(batch_norm: Callable[..., Tensor], x: Tensor) -> Tensor:
    """The variance a layer computes: with momentum 1 it is stored, with correction 1."""
    values, channels = x.numel() // x.shape[1], x.shape[1]
    mean, var = torch.zeros(channels), torch.ones(channels)
    batch_norm(x, mean, var, training=True, momentum=1.0)
    return var * ((values - 1) / values)


def together(x: Tensor) -> Tensor:
    """The same values as (N, C, L), a channel's side by side."""
    return x.view(64, -1, x.shape[1]).transpose(1, 2).contiguous()


WAYS: dict[str, Callable[[Tensor], Tensor]] = {
    "E[x²] − E[x]²": textbook,
    "Welford": welford,
    "two passes": two_passes,
    "batchnorm, Moments": moments,
    "batchnorm, layer": lambda x: of_layer(bn.functional.batch_norm, x),
    "batchnorm, layer, together": lambda x: of_layer(bn.functional.batch_norm, together(x)),
    "PyTorch, layer": lambda x: of_layer(functional.batch_norm, x),
    "PyTorch, layer, together": lambda x: of_layer(functional.batch_norm, together(x)),
    "PyTorch, torch.var": lambda x: x.var(0, correction=0),
}


def rows(ratios: tuple[float, ...] = RATIOS) -> Iterator[Row]:
    """Measure every way at every ratio of mean to standard deviation."""
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(VALUES, CHANNELS, generator=generator, dtype=torch.float64)
    for ratio in ratios:
        x = (z + ratio).float()
        true = x.double().var(0, correction=0)
        for way, var in WAYS.items():
            error = ((var(x).double() - true) / true).abs().max().item()
            yield {"ratio": ratio, "way": way, "error": error}
