"""What is measured where nobody says: shapes of a residual network, a U-Net and perceptrons."""

from typing import NamedTuple

from .case import Shape


class Grid(NamedTuple):
    """The shapes of a device.

    Args:
        shapes: All of them.
        quick: Few and small ones, for a look.
    """

    shapes: tuple[Shape, ...]
    quick: tuple[Shape, ...]


def resnet50(batch: int) -> tuple[Shape, ...]:
    """Give every shape that ResNet-50 normalizes, of images of 224×224.

    Example:
        >>> resnet50(256)[0]
        (256, 64, 112, 112)
    """
    return (
        (batch, 64, 112, 112),
        (batch, 64, 56, 56),
        (batch, 256, 56, 56),
        (batch, 128, 28, 28),
        (batch, 512, 28, 28),
        (batch, 256, 14, 14),
        (batch, 1024, 14, 14),
        (batch, 512, 7, 7),
        (batch, 2048, 7, 7),
    )


RESNET50 = resnet50(32)
UNET: tuple[Shape, ...] = ((2, 32, 256, 256), (2, 128, 128, 128))
MLP: tuple[Shape, ...] = ((256, 512), (8192, 256), (64, 100))
QUICK: tuple[Shape, ...] = ((8, 64, 28, 28), (8, 512, 7, 7), (256, 512))

ON_CPU = Grid(RESNET50 + UNET + MLP, QUICK)

LARGE_UNET: tuple[Shape, ...] = ((16, 64, 256, 256), (16, 128, 128, 128))
ON_GPU = Grid(resnet50(256) + LARGE_UNET + MLP, ((32, 64, 56, 56), (32, 512, 7, 7), (8192, 256)))
