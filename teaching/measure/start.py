"""The network of the first page: accuracy after each epoch, without and with batch normalization.

The lines of docs/start.md, in the same order, so that the same seed gives the same networks.
"""

from collections.abc import Callable, Iterator

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional

import batchnorm as bn

from ..data import Row

SETTINGS = {
    "network": "4 hidden layers of 64 ReLUs, PyTorch's initialization",
    "data": "scikit-learn's digits, the first 1344 to train on, the others to test, 5 seeds",
    "budget": "8 epochs in batches of 64, SGD without momentum, learning rate 0.1",
}
SEEDS, EPOCHS, RATE, BATCH, TRAINING = 5, 8, 0.1, 64, 1344
ARMS = WITHOUT, WITH = "without", "with"


def digits() -> tuple[Tensor, Tensor]:
    """Pixels (N, 64) from 0 to 1, and the digits that they show."""
    images, labels = load_digits(return_X_y=True)
    return torch.tensor(images).float() / 16, torch.tensor(labels)


def network() -> nn.Sequential:
    """Build the network without batch normalization."""
    layers = [layer for _ in range(4) for layer in (nn.Linear(64, 64), nn.ReLU())]
    return nn.Sequential(*layers, nn.Linear(64, 10))


def train(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    after: Callable[[], object] = lambda: None,
) -> None:
    """Train, and call `after` at the end of each epoch."""
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
    for _ in range(EPOCHS):
        for batch in torch.randperm(len(y)).split(BATCH):
            optimizer.zero_grad()
            functional.cross_entropy(model(x[batch]), y[batch]).backward()
            optimizer.step()
        after()


@torch.no_grad()
def accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """Share of right answers in evaluation; the model is in its mode again afterwards."""
    mode = model.training
    right = model.eval()(x).argmax(1) == y
    model.train(mode)
    return float(right.float().mean())


def rows(seeds: int = SEEDS) -> Iterator[Row]:
    """Train both networks with each seed."""
    torch.set_num_threads(1)
    x, y = digits()
    for seed in range(seeds):
        torch.manual_seed(seed)
        plain = network()
        for arm, model in zip(ARMS, (plain, bn.insert(plain)), strict=True):
            for epoch, share in enumerate(_curve(model, x, y), 1):
                yield {"arm": arm, "seed": seed, "epoch": epoch, "accuracy": share}


def _curve(model: nn.Module, x: Tensor, y: Tensor) -> list[float]:
    """Accuracy on the test digits after each epoch."""
    found: list[float] = []
    train(
        model,
        x[:TRAINING],
        y[:TRAINING],
        after=lambda: found.append(accuracy(model, x[TRAINING:], y[TRAINING:])),
    )
    return found
