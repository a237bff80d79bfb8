"""Where batch normalization is put, and what is done to the inputs: accuracy on the digits.

The study's network and budget: 6 hidden layers of 64 ReLUs, 200 steps of 64 samples, SGD with
momentum 0.9. Every arm gets the same learning rates; a seed is judged at the rate that is best for
the validation data of the other seeds.
"""

import statistics
from collections.abc import Iterator

import torch
from torch import nn

import batchnorm as bn

from ..data import Row
from .digits import accuracy, digits, train

SETTINGS = {
    "network": "6 hidden layers of 64 ReLUs, He initialization",
    "data": "scikit-learn's digits, split as in the study, 6 seeds",
    "budget": "200 steps of 64 samples, SGD, momentum 0.9; learning rates "
    "0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1",
    "choice": "per arm, by validation accuracy of the other seeds; accuracy is on test data",
}
RATES = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
SEEDS, STEPS, DEPTH, WIDTH = 6, 200, 6, 64
HIDDEN = {"none": None, "before": "before_activation", "after": "after_activation"}
INPUTS = ("raw", "minmax", "standardize")


def network(hidden: str, seed: int) -> nn.Module:
    """Build the network of one seed, its weights the same whatever is put in."""
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    features = 64
    for _ in range(DEPTH):
        layers += [nn.Linear(features, WIDTH), nn.ReLU()]
        features = WIDTH
    plain = nn.Sequential(*layers, nn.Linear(features, 10))
    for layer in plain:
        if isinstance(layer, nn.Linear):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)
    where = HIDDEN[hidden]
    return plain if where is None else bn.insert(plain, where=where)


def rows(seeds: int = SEEDS, steps: int = STEPS) -> Iterator[Row]:
    """Train every arm at every rate, and yield each seed at its chosen rate."""
    torch.set_num_threads(1)
    for inputs in INPUTS:
        for hidden in HIDDEN:
            found = {
                (lr, seed): _run(inputs, hidden, lr, seed, steps)
                for lr in RATES
                for seed in range(seeds)
            }
            for seed in range(seeds):
                lr = _chosen(found, seed, seeds)
                row = {"inputs": inputs, "hidden": hidden, "seed": seed, "lr": lr}
                yield {**row, "accuracy": found[lr, seed][1]}


def _run(inputs: str, hidden: str, lr: float, seed: int, steps: int) -> tuple[float, float]:
    """Accuracy on validation and on test data."""
    data = digits(seed, inputs)
    model = network(hidden, seed)
    train(model, data, lr, steps)
    return accuracy(model, data.parts.val), accuracy(model, data.parts.test)


def _chosen(found: dict[tuple[float, int], tuple[float, float]], seed: int, seeds: int) -> float:
    others = [s for s in range(seeds) if s != seed] or [seed]
    return max(RATES, key=lambda lr: statistics.fmean(found[lr, s][0] for s in others))
