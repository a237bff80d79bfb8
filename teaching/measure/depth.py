"""How the error signal grows or shrinks through 50 layers, without and with batch normalization.

Measured by the study's own `depth_profile`, at initialization; and once more while a network of 30
layers learns the digits.
"""

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional

import batchnorm as bn
from batchnorm.study.claims.backward_growth import depth_profile

from ..data import Row
from .digits import Digits, digits

SETTINGS = {
    "network": "50 hidden layers of 256 units, weights by He (ReLU) or Glorot (tanh; sigmoid with "
    "gain 4) without batch normalization and with it",
    "batch": "256 samples of 64 Gaussian inputs, 10 random classes",
    "error": "rms of the error signal at the input of an activation, over that at the last one; "
    "geometric mean of 3 seeds",
    "learning": "the same with 30 layers of ReLUs on scikit-learn's digits: SGD, momentum 0.9, "
    "batches of 64, at a learning rate at which the arm learns (0.003 without, 0.1 with); error of "
    "the first layer over that of the last, and training loss, by step",
}
DEPTH, WIDTH, BATCH, SEEDS = 50, 256, 256, 3
TRAINED_DEPTH, STEPS = 30, (0, 1, 3, 10, 30, 100)
ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "sigmoid": nn.Sigmoid, "tanh": nn.Tanh}
ARMS = ("none", "batch norm")
RATES = {"none": 0.003, "batch norm": 0.1}


def network(activation: str, arm: str, depth: int, seed: int, width: int = WIDTH) -> nn.Module:
    """Build a plain deep network with the initialization meant for its activation."""
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    features = 64
    for _ in range(depth):
        layers += [_linear(features, width, activation), ACTIVATIONS[activation]()]
        features = width
    plain = nn.Sequential(*layers, _linear(features, 10, activation))
    return plain if arm == "none" else bn.insert(plain)


def rows(depth: int = DEPTH, steps: tuple[int, ...] = STEPS) -> Iterator[Row]:
    """Measure every activation, without and with, layer by layer; then a network that learns."""
    torch.set_num_threads(1)
    for activation in ACTIVATIONS:
        for arm in ARMS:
            logs = [_logs(activation, arm, depth, seed) for seed in range(SEEDS)]
            for layer, values in enumerate(zip(*logs, strict=True), start=1):
                error = math.exp(sum(values) / SEEDS)
                yield {"activation": activation, "arm": arm, "layer": layer, "error": error}
    for arm in ARMS:
        yield from _while_learning(arm, digits(seed=0), steps)


def _linear(inputs: int, outputs: int, activation: str) -> nn.Linear:
    layer = nn.Linear(inputs, outputs)
    if activation == "relu":
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    else:
        nn.init.xavier_normal_(layer.weight, gain=4.0 if activation == "sigmoid" else 1.0)
    nn.init.zeros_(layer.bias)
    return layer


def _logs(activation: str, arm: str, depth: int, seed: int) -> list[float]:
    """Logarithm of the error signal of every layer over that of the last."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(BATCH, 64, generator=generator)
    y = torch.randint(10, (BATCH,), generator=generator)
    return profile(network(activation, arm, depth, seed), x, y)


def profile(model: nn.Module, x: Tensor, y: Tensor) -> list[float]:
    """Logarithm of the error signal of every layer over that of the last; −inf where it is 0."""
    found = depth_profile(0, model, x, y)
    assert found is not None, "a signal is not finite"
    errors = [error or 0.0 for error in found.error_rms]
    return [math.log(error / errors[-1]) if error else -math.inf for error in errors]


def _while_learning(arm: str, data: Digits, steps: tuple[int, ...]) -> Iterator[Row]:
    model = network("relu", arm, TRAINED_DEPTH, seed=0)
    optimizer = torch.optim.SGD(model.parameters(), lr=RATES[arm], momentum=0.9)
    for step, (x, y) in enumerate(data.batches(max(steps) + 1)):
        loss = functional.cross_entropy(model(x), y)
        if step in steps:
            error = math.exp(profile(model, x, y)[0])
            row = {"activation": "relu, learning", "arm": arm, "step": step, "error": error}
            yield {**row, "loss": loss.item()}
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
