"""What feeds a layer and what reads it, as evidence has it."""

import torch
from torch import nn

import batchnorm as bn
from batchnorm.diagnosis.evidence import Neighbor

from .test_diagnose import collected, inputs


class Structure(nn.Module):
    """Layers, activations, dropout and additions, as modules and as functions."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1, bias=False)
        self.relu, self.drop = nn.ReLU(inplace=True), nn.Dropout(0.3)
        self.first, self.second = nn.BatchNorm2d(3), nn.BatchNorm2d(3)
        self.conv2 = nn.Conv2d(3, 3, 3, padding=1)
        self.third, self.last = bn.BatchNorm2d(3), nn.BatchNorm1d(3)

    def forward(self, x):
        y = self.first(self.drop(self.relu(self.conv(x))))
        y = nn.functional.dropout(self.conv2(y), 0.1, self.training)
        z = nn.functional.relu(self.third(torch.add(x, self.second(y))))
        return self.last(z.amax((2, 3)).view(len(z), -1))


def test_neighbors():
    found = collected(Structure(), [torch.randn(4, 3, 6, 6) for _ in range(2)])
    layers = found.layers
    assert list(layers) == ["first", "second", "third", "last"]
    conv = Neighbor("layer", "conv", "Conv2d", False)
    assert [n.kind for n in layers["first"].fed_by] == ["dropout", "activation", "layer"]
    assert layers["first"].fed_by[2] == conv
    assert layers["first"].read_by == (Neighbor("layer", "conv2", "Conv2d", True),)
    assert [(n.kind, n.has_bias) for n in layers["second"].fed_by] == [
        ("dropout", None), ("layer", True),
    ]  # fmt: skip
    assert [n.kind for n in layers["second"].read_by] == ["add"]
    assert [n.kind for n in layers["third"].fed_by] == ["add"]
    assert [n.what for n in layers["third"].read_by] == ["relu"]
    assert layers["last"].fed_by[-1].name == "third"
    assert [n.kind for n in layers["last"].read_by] == ["output"]


def test_activations_are_named_by_where_they_are():
    found = collected(Structure(), [torch.randn(4, 3, 6, 6) for _ in range(2)])
    names = {name: (a.what, a.layer) for name, a in found.activations.items()}
    assert names == {"relu": ("relu", None), "(model) (relu)": ("relu", "third")}


def test_an_activation_that_is_used_twice_is_two():
    relu = nn.ReLU()
    model = nn.Sequential(nn.Linear(3, 3), bn.BatchNorm1d(3), relu, bn.BatchNorm1d(3), relu)
    found = collected(model, inputs())
    assert {name: a.layer for name, a in found.activations.items()} == {"2": "1", "2 #2": "3"}
