"""The digits as the study splits them, and a training loop for small comparisons."""

import dataclasses
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional

from batchnorm.study import data as parts


@dataclasses.dataclass(frozen=True)
class Digits:
    """Training, validation and test part of one seed."""

    parts: parts.Data
    seed: int

    def batches(self, steps: int, size: int = 64) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield batches of the training part, the same for the same seed."""
        return iter(parts.batches(self.parts, size, steps, self.seed))


def digits(seed: int, inputs: str = "standardize") -> Digits:
    """Split scikit-learn's digits as the study does, inputs "standardize", "minmax" or "raw"."""
    return Digits(parts.split(parts.pool(None), seed, inputs), seed)


def train(model: nn.Module, data: Digits, lr: float, steps: int, momentum: float = 0.9) -> None:
    """Train by SGD at a constant rate; stops where the loss is no longer finite."""
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=momentum)
    model.train()
    for x, y in data.batches(steps):
        optimizer.zero_grad()
        loss = functional.cross_entropy(model(x), y)
        if not torch.isfinite(loss):
            return
        loss.backward()
        optimizer.step()


@torch.no_grad()
def accuracy(model: nn.Module, part: parts.Part) -> float:
    """Share of right answers in evaluation."""
    right = model.eval()(part.x).argmax(1) == part.y
    return float(right.float().mean())
