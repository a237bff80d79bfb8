"""A network and data of one's own for `batchnorm study`.

batchnorm study --model examples/iris.py:make --data examples/iris.py:data \
    --lr 0.01 0.1 1 --seeds 6 --out iris-results
"""

from collections.abc import Callable

import torch
from sklearn.datasets import load_iris
from torch import Tensor, nn


def make(norm: Callable[[int], nn.Module]) -> nn.Module:
    """Build the network; norm(64) is batch normalization in one arm and nothing in the other."""
    layers: list[nn.Module] = []
    features = 4
    for _ in range(3):
        layers += [nn.Linear(features, 64), norm(64), nn.ReLU()]
        features = 64
    return nn.Sequential(*layers, nn.Linear(features, 3))


def data() -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Return the training and the test set, 110 and 40 flowers."""
    x, y = load_iris(return_X_y=True)
    inputs, labels = torch.tensor(x, dtype=torch.float32), torch.tensor(y)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    train, test = order[:110], order[110:]
    return (inputs[train], labels[train]), (inputs[test], labels[test])
