"""Networks without batch normalization: those of others with it taken out, and small ones."""

import copy

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from . import architectures


def without_norms(model):
    """A copy of the model with `nn.Identity` in the place of every batch normalization."""
    bare = copy.deepcopy(model)
    for name, module in list(bare.named_modules()):
        if isinstance(module, _BatchNorm):
            parent, _, child = name.rpartition(".")
            setattr(bare.get_submodule(parent), child, nn.Identity())
    return bare


def vit():
    return architectures.built(
        "ViT",
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=48,
        image_size=32,
        patch_size=8,
    )


def convnext():
    # the default scale of a block, 1e-6, would hide what a block computes
    return architectures.built(
        "ConvNext", hidden_sizes=[8, 16], depths=[1, 1], num_stages=2, layer_scale_init_value=0.5
    )


class Vgg(nn.Module):
    """Two sequences, and functions between them."""

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(True), nn.Conv2d(4, 6, 3), nn.ReLU(True)
        )
        self.hidden = nn.Linear(6, 8)
        self.head = nn.Linear(8, 2)

    def forward(self, x):
        x = torch.nn.functional.adaptive_avg_pool2d(self.features(x), 1).flatten(1)
        return self.head(torch.relu(self.hidden(x)))


class PreActivation(nn.Module):
    """Residual blocks whose activations come first."""

    def __init__(self):
        super().__init__()
        for name, before in {"stem": 3, "a": 4, "b": 4, "c": 4, "d": 4}.items():
            setattr(self, name, nn.Conv2d(before, 4, 3, padding=1))
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        x = self.stem(x)
        x = x + self.b(self.a(x.relu()).relu())
        x = x + self.d(self.c(x.relu()).relu())
        return self.head(x.relu().mean((2, 3)))
