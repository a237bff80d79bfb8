"""Modules that do more than a forward should, and have to be put back as they were."""

import torch
from torch import nn


class Counter(nn.Module):
    """A buffer that every forward changes, one that it replaces, and one that it makes."""

    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))
        self.register_buffer("latest", torch.zeros(3))
        self.register_buffer("cache", None, persistent=False)

    def forward(self, x):
        self.calls += 1
        self.latest = x.detach().mean(0)
        self.cache = x.detach()
        if "made" not in self._buffers:
            self.register_buffer("made", torch.ones(1))
        return x + torch.rand(()) * 0


class Stubborn(nn.Sequential):
    """Its own `train` does more than to set the mode."""

    switched = 0

    def train(self, mode=True):
        self.switched += 1
        return super().train(mode)
