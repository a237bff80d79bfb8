"""Residual networks of PyTorch's layers and of ours, for measurements."""

from torch import Tensor, nn

import batchnorm as bn

NETWORKS = {"resnet18": ("basic", (2, 2, 2, 2)), "resnet50": ("bottleneck", (3, 4, 6, 3))}


class Theirs(nn.Module):
    """What follows a convolution, by PyTorch's layers."""

    def __init__(self, channels: int, activation: str | None) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True) if activation else nn.Identity()

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """Normalize, add, apply the activation."""
        y = self.norm(x)
        if residual is not None:
            y += residual
        return self.relu(y)


def norm(channels: int, ours: bool, activation: str | None = "relu") -> nn.Module:
    """What follows a convolution."""
    return bn.BatchNorm2d(channels, activation=activation) if ours else Theirs(channels, activation)


class Block(nn.Module):
    """A residual block; its output has `growth` times the channels of its convolutions."""

    def __init__(self, kind: str, inputs: int, width: int, stride: int, ours: bool) -> None:
        super().__init__()
        outputs = width * growth(kind)
        sizes = [(width, 3, stride), (width, 3, 1)]
        if kind == "bottleneck":
            sizes = [(width, 1, 1), (width, 3, stride), (outputs, 1, 1)]
        self.steps = nn.ModuleList()
        channels = inputs
        for out, kernel, step in sizes:
            conv = nn.Conv2d(channels, out, kernel, step, kernel // 2, bias=False)
            self.steps.append(nn.ModuleList([conv, norm(out, ours)]))
            channels = out
        self.shortcut = None
        if stride != 1 or inputs != outputs:
            conv = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.shortcut = nn.Sequential(conv, norm(outputs, ours, None))

    def forward(self, x: Tensor) -> Tensor:
        """Add what the convolutions make of x to x, before the last activation."""
        y = x
        for conv, after in self.steps[:-1]:
            y = after(conv(y))
        conv, after = self.steps[-1]
        return after(conv(y), x if self.shortcut is None else self.shortcut(x))


def growth(kind: str) -> int:
    """How many times the channels of its convolutions a block has at its end."""
    return 4 if kind == "bottleneck" else 1


def resnet(name: str, ours: bool, width: int = 64, classes: int = 10) -> nn.Sequential:
    """A network of He et al. 2016, with two strides of 2 before the first block."""
    kind, depths = NETWORKS[name]
    layers = [nn.Conv2d(3, width, 7, 2, 3, bias=False), norm(width, ours), nn.MaxPool2d(3, 2, 1)]
    inputs = width
    for stage, depth in enumerate(depths):
        wide = width * 2**stage
        for number in range(depth):
            stride = 2 if stage > 0 and number == 0 else 1
            layers.append(Block(kind, inputs, wide, stride, ours))
            inputs = wide * growth(kind)
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, classes)]
    return nn.Sequential(*layers, *head)
