"""Networks with batch normalization, trained on scikit-learn's digits as they should be.

`examples/faults.py` plants mistakes into them; `bn.diagnose` must find those, and nothing here.

    python examples/healthy.py
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache

import torch
from architectures import UNet
from torch import Tensor, nn
from torch.nn import functional as F

import batchnorm as bn

Batch = tuple[Tensor, Tensor]


@dataclasses.dataclass
class Case:
    """A network and what `bn.diagnose` is given with it.

    Args:
        model: In training mode, as a training loop leaves it.
        batches: Inputs and classes, as the network was trained with.
        test: Images that it was not trained with, and their classes.
        optimizer: The one that trained it, where that matters.
        replicas: State dicts of the same network in other processes, where that matters.
    """

    model: nn.Module
    batches: list[Batch]
    test: Batch
    optimizer: torch.optim.Optimizer | None = None
    replicas: Sequence[Mapping[str, Tensor]] = ()

    @property
    def accuracy(self) -> float:
        """Share of the test set that is classified correctly in evaluation mode."""
        x, y = self.test
        modes = {module: module.training for module in self.model.modules()}
        self.model.eval()
        with torch.no_grad():
            right = (self.model(x).argmax(1) == y).double().mean()
        for module, mode in modes.items():
            module.training = mode
        return float(right)


@lru_cache(maxsize=8)
def digits(seed: int, flat: bool = False) -> tuple[Batch, Batch]:
    """Split 1797 images of 8×8 pixels into training and test set, 3 to 1."""
    from sklearn.datasets import load_digits

    images, classes = load_digits(return_X_y=True)
    x = torch.tensor(images, dtype=torch.float32).view(-1, 1, 8, 8)
    x = (x - x.mean()) / x.std()
    x = x.flatten(1) if flat else x
    y = torch.tensor(classes)
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(seed))
    train, test = order[:1347], order[1347:]
    return (x[train], y[train]), (x[test], y[test])


def shuffled(data: Batch, size: int, steps: int, seed: int) -> list[Batch]:
    """Draw batches epoch after epoch, each epoch in an order of its own."""
    generator = torch.Generator().manual_seed(seed)

    def every() -> Iterator[Tensor]:
        while True:
            order = torch.randperm(len(data[1]), generator=generator)
            yield from order[: len(order) // size * size].split(size)

    return [(data[0][i], data[1][i]) for i, _ in zip(every(), range(steps), strict=False)]


def cross_entropy(output: Tensor, batch: Batch) -> Tensor:
    """Compare scores with classes; with those of the pixels for a network that gives images."""
    return F.cross_entropy(output, batch[1])


def fit(
    model: nn.Module,
    batches: Sequence[Batch],
    lr: float = 0.1,
    after: Callable[[int], object] = lambda step: None,
    penalty: Callable[[], Tensor | float] = lambda: 0.0,
) -> nn.Module:
    """Train by gradient descent with momentum, the learning rate falling to 0."""
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
    for step, batch in enumerate(batches):
        for group in optimizer.param_groups:
            group["lr"] = lr * (1 - step / len(batches))
        optimizer.zero_grad()
        (cross_entropy(model(batch[0]), batch) + penalty()).backward()
        optimizer.step()
        after(step)
    return model


def mlp(width: int = 32, norm: Callable[[int], nn.Module] = nn.BatchNorm1d) -> nn.Sequential:
    """Two hidden layers; batch normalization is "1" and "4"."""
    return nn.Sequential(
        nn.Linear(64, width, bias=False),
        norm(width),
        nn.ReLU(),
        nn.Linear(width, width, bias=False),
        norm(width),
        nn.ReLU(),
        nn.Linear(width, 10),
    )


def convnet(width: int = 8, norm: Callable[[int], nn.Module] = nn.BatchNorm2d) -> nn.Sequential:
    """Two convolutions; batch normalization is "1" and "4"."""
    return nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1, bias=False),
        norm(width),
        nn.ReLU(),
        nn.Conv2d(width, 2 * width, 3, stride=2, padding=1, bias=False),
        norm(2 * width),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(2 * width, 10),
    )


class Block(nn.Module):
    """Two convolutions, and what came in added to what they give."""

    def __init__(self, before: int, after: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(after)
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 or before != after:
            conv = nn.Conv2d(before, after, 1, stride, bias=False)
            self.shortcut = nn.Sequential(conv, nn.BatchNorm2d(after))

    def forward(self, x: Tensor) -> Tensor:
        """Add, then the activation, as He et al. 2016 (arXiv:1512.03385) do."""
        y = self.norm1(self.conv1(x)).relu()
        return (self.norm2(self.conv2(y)) + self.shortcut(x)).relu()


def resnet(width: int = 8) -> nn.Sequential:
    """Three residual blocks behind a convolution, like a small ResNet."""
    return nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        Block(width, width),
        Block(width, 2 * width, stride=2),
        Block(2 * width, 4 * width, stride=2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4 * width, 10),
    )


def ink(data: Batch, seed: int) -> Batch:
    """Ask of each pixel of a noisy image whether it had ink."""
    noise = torch.randn(data[0].shape, generator=torch.Generator().manual_seed(seed))
    return data[0] + 0.5 * noise, (data[0][:, 0] > 0).long()


def healthy_mlp(seed: int, fresh: bool = True) -> Case:
    """Train a network of linear layers."""
    train, test = digits(seed, flat=True)
    return _trained(mlp, train, test, seed, 120, fresh)


def healthy_resnet(seed: int, fresh: bool = True) -> Case:
    """Train a small ResNet."""
    train, test = digits(seed)
    return _trained(resnet, train, test, seed, 80, fresh)


def healthy_unet(seed: int, fresh: bool = True) -> Case:
    """Train a small U-Net to find the ink in noisy images."""
    train, test = digits(seed)
    return _trained(lambda: UNet(channels=1), ink(train, seed), ink(test, ~seed), seed, 60, fresh)


NETWORKS: dict[str, Callable[..., Case]] = {
    "mlp": healthy_mlp,
    "resnet": healthy_resnet,
    "unet": healthy_unet,
}
"""Called with a seed; `fresh=False` leaves the running statistics as training has left them."""


def _trained(
    make: Callable[[], nn.Module], train: Batch, test: Batch, seed: int, steps: int, fresh: bool
) -> Case:
    torch.manual_seed(seed)
    model = fit(make(), shuffled(train, 64, steps, seed))
    batches = shuffled(train, 64, 16, seed + 1)
    if fresh:
        bn.recalibrate(model, batches, progress=False)
    return Case(model, batches, test)


if __name__ == "__main__":
    for name, make in NETWORKS.items():
        print(f"{name:7} {make(0).accuracy:.3f} of the test set")
