"""What one hidden unit's values go through: before the layer, standardized, affine, after the ReLU.

The network of `placement`, trained with batch normalization before the activation. The unit is the
middle one of the third hidden layer, a choice that is blind to what it does.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from ..data import Row
from .digits import digits, train
from .placement import STEPS, WIDTH, network

SETTINGS = {
    "network": "6 hidden layers of 64 ReLUs on scikit-learn's digits, batch normalization before "
    "the activation, 200 steps of 64 samples at learning rate 0.1",
    "unit": "the middle one of the third hidden layer",
    "values": "the first 256 training samples as one batch",
}
LAYER, UNIT, SAMPLES, LR = 3, WIDTH // 2, 256, 0.1


def rows(steps: int = STEPS) -> Iterator[Row]:
    """Yield the values of the unit at four places, sample by sample."""
    torch.set_num_threads(1)
    data = digits(seed=0)
    model = network("before", seed=0)
    train(model, data, LR, steps)
    for sample, values in enumerate(zip(*(p.tolist() for p in places(model, data)), strict=True)):
        names = ("linear", "standardized", "affine", "relu")
        yield {"sample": sample, **dict(zip(names, values, strict=True))}


@torch.no_grad()
def places(model: torch.nn.Module, data: object) -> tuple[Tensor, ...]:
    """The unit's values in training mode at its four places."""
    x = data.parts.train.x[:SAMPLES]  # type: ignore[attr-defined]
    children = list(model.train().children())
    for child in children[: 3 * (LAYER - 1)]:
        x = child(x)
    linear, norm, relu = children[3 * (LAYER - 1) : 3 * LAYER]
    h = linear(x)
    y = norm(h)
    standardized = (y - norm.bias) / norm.weight
    return tuple(t[:, UNIT] for t in (h, standardized, y, relu(y)))
