"""The network of docs/port.md, with the real Keras: carried over, checked, and carried back."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import batchnorm as bn
from batchnorm import port

DOCS = Path(__file__).parents[2] / "docs" / "port.md"


def carry_over():
    """The function that the page shows."""
    (text,) = re.findall(r"```python\n(def carry_over.*?)```", DOCS.read_text(), re.DOTALL)
    space = {"bn": bn, "torch": torch, "nn": nn}
    exec(text, space)
    return space["carry_over"]


@pytest.mark.slow
def test_a_sequential_of_keras_is_carried_over(keras):
    x = np.random.default_rng(0).normal(size=(64, 4)).astype(np.float32)
    weights, norms, expected = keras.network(x)
    model = carry_over()(weights, norms)
    assert port.check(model, x, expected) < 1e-4
    assert [m.eps for m in model if isinstance(m, nn.BatchNorm1d)] == [1e-3, 1e-3]
    assert [m.momentum for m in model if isinstance(m, nn.BatchNorm1d)] == [0.01, 0.1]
    for name, state in zip(("bn1", "bn2"), port.states(model).values(), strict=True):
        arrays, options = port.to_keras(state)
        assert options == norms[name]
        for key, value in arrays.items():
            path = next(p for p in weights if p.endswith(f"{name}/{key}"))
            np.testing.assert_array_equal(value, weights[path])
