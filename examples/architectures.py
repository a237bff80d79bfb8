"""Three networks with batch normalization in different places: for `bn.fold` and its tests."""

import torch
from torch import Tensor, nn


class UNet(nn.Module):
    """Down and up again, with what was seen on the way down laid beside what comes up."""

    def __init__(self, channels: int = 3, width: int = 8, classes: int = 2) -> None:
        super().__init__()
        self.enter = self._twice(channels, width)
        self.down = nn.Sequential(nn.MaxPool2d(2), self._twice(width, 2 * width))
        self.bottom = nn.Sequential(nn.MaxPool2d(2), self._twice(2 * width, 4 * width))
        self.up1 = nn.ConvTranspose2d(4 * width, 2 * width, 2, stride=2)
        self.join1 = self._twice(4 * width, 2 * width)
        self.up2 = nn.ConvTranspose2d(2 * width, width, 2, stride=2)
        self.join2 = self._twice(2 * width, width)
        self.leave = nn.Conv2d(width, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return a score for each pixel and class."""
        high = self.enter(x)
        middle = self.down(high)
        y = self.up1(self.bottom(middle))
        y = self.join1(torch.cat((middle, y), dim=1))
        scores: Tensor = self.leave(self.join2(torch.cat((high, self.up2(y)), dim=1)))
        return scores

    @staticmethod
    def _twice(before: int, after: int) -> nn.Sequential:
        return nn.Sequential(
            nn.Conv2d(before, after, 3, padding=1, bias=False),
            nn.BatchNorm2d(after),
            nn.ReLU(inplace=True),
            nn.Conv2d(after, after, 3, padding=1, bias=False),
            nn.BatchNorm2d(after),
            nn.ReLU(inplace=True),
        )


class DenseLayer(nn.Module):
    """Normalization and activation before each convolution; the result is laid beside the input."""

    def __init__(self, channels: int, growth: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv1 = nn.Conv2d(channels, 4 * growth, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(4 * growth)
        self.conv2 = nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return the input and the new channels."""
        y = self.conv1(self.norm1(x).relu())
        return torch.cat((x, self.conv2(self.norm2(y).relu())), dim=1)


class DenseNet(nn.Module):
    """Two dense blocks."""

    def __init__(self, classes: int = 5, growth: int = 4, depth: int = 3) -> None:
        super().__init__()
        width = 2 * growth
        self.stem = nn.Conv2d(3, width, 3, padding=1, bias=False)
        blocks: list[nn.Module] = []
        for _ in range(2):
            blocks += [DenseLayer(width + i * growth, growth) for i in range(depth)]
            width += depth * growth
            blocks += [nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, width // 2, 1)]
            blocks += [nn.AvgPool2d(2)]
            width //= 2
        self.blocks = nn.Sequential(*blocks)
        self.norm = nn.BatchNorm2d(width)
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return a score for each class."""
        y = self.norm(self.blocks(self.stem(x))).relu()
        scores: Tensor = self.head(y.mean((2, 3)))
        return scores


class Generator(nn.Module):
    """Noise to images, by transposed convolutions."""

    def __init__(self, noise: int = 16, width: int = 8, channels: int = 3) -> None:
        super().__init__()
        self.project = nn.Linear(noise, 4 * width * 4 * 4, bias=False)
        self.norm = nn.BatchNorm1d(4 * width * 4 * 4)
        self.body = nn.Sequential(
            nn.ConvTranspose2d(4 * width, 2 * width, 4, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(2 * width),
            nn.ReLU(),
            nn.ConvTranspose2d(2 * width, width, 4, stride=2, padding=1, groups=2, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.ConvTranspose2d(width, channels, 4, stride=2, padding=1),
            nn.Tanh(),
        )

    def forward(self, z: Tensor) -> Tensor:
        """Return images with values from -1 to 1."""
        y = self.norm(self.project(z)).relu().unflatten(1, (-1, 4, 4))
        images: Tensor = self.body(y)
        return images
