"""How running statistics approach the population's: fast and noisy, or slow and smooth."""

from collections.abc import Iterator

import torch

import batchnorm as bn

from ..data import Row

SETTINGS = {
    "values": "batches of 32 Gaussian values of mean 2 and standard deviation 3",
    "layer": "bn.BatchNorm1d(1), starting at running_mean = 0 and running_var = 1",
}
MOMENTA = (0.1, 0.01)
BATCH, STEPS, MEAN, STD = 32, 300, 2.0, 3.0


def rows(steps: int = STEPS) -> Iterator[Row]:
    """Follow the running statistics of one layer per momentum, on the same batches."""
    torch.set_num_threads(1)
    for momentum in MOMENTA:
        generator = torch.Generator().manual_seed(0)
        layer = bn.BatchNorm1d(1, momentum=momentum)
        for step in range(steps + 1):
            mean, var = layer.running_mean, layer.running_var
            assert mean is not None and var is not None
            yield {"momentum": momentum, "step": step, "mean": mean.item(), "var": var.item()}
            layer(MEAN + STD * torch.randn(BATCH, 1, generator=generator))
