"""Layers of known statistics, and what a batch does to them, by hand."""

import math

import pytest
import torch

from batchnorm import BatchNorm1d, BatchNorm2d, BatchNorm3d

CLASSES = {
    BatchNorm1d: (12, 4, 3),
    BatchNorm2d: (12, 4, 3, 2),
    BatchNorm3d: (12, 4, 3, 2, 2),
}
BEFORE = (3.0, 7.0)
"""Running mean and variance of a layer of `known`."""

BAD = {
    "nan": math.nan,
    "inf": math.inf,
    "-inf": -math.inf,
    "overflow of the variance": 1e30,
}
each_class = pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
each_bad = pytest.mark.parametrize("bad", BAD.values(), ids=BAD)


def known(channels=3, cls=BatchNorm1d, **options):
    """A layer that has seen 5 batches and has running mean 3 and variance 7."""
    layer = cls(channels, **options)
    layer.running_mean.fill_(BEFORE[0])
    layer.running_var.fill_(BEFORE[1])
    layer.num_batches_tracked.fill_(5)
    return layer


def state(layer):
    return {name: buffer.clone() for name, buffer in layer.named_buffers()}


def assert_same_state(layer, expected):
    found = state(layer)
    assert found.keys() == expected.keys()
    for name, buffer in expected.items():
        assert torch.equal(found[name], buffer), name


def assert_same_but_rounding(layer, expected):
    """A kernel that moves the running statistics rounds once, operations of torch twice."""
    found = state(layer)
    assert found.keys() == expected.keys()
    for name, buffer in expected.items():
        torch.testing.assert_close(found[name], buffer, rtol=2**-22, atol=0, msg=name)


def moved(mean, var, momentum=0.1):
    """Running mean and variance that were `BEFORE`, after one batch."""
    return tuple(
        (1 - momentum) * old + momentum * new for old, new in zip(BEFORE, (mean, var), strict=True)
    )


def assert_running(layer, mean, var, tracked=None):
    """Within 4 ulp of the values: one addition, two products, and the moments themselves."""
    for found, expected in ((layer.running_mean, mean), (layer.running_var, var)):
        expected = torch.as_tensor(expected, dtype=torch.float64).expand_as(found)
        ulp = torch.finfo(found.dtype).eps
        torch.testing.assert_close(found.double(), expected, rtol=4 * ulp, atol=4 * ulp)
    if tracked is not None:
        assert layer.num_batches_tracked.item() == tracked


def random(shape, seed=0, scale=2.0, offset=1.0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(shape, generator=generator) * scale + offset).to(dtype)


def batch_of(*middles):
    """Two values per channel, 1 below and 1 above: the variance is 2 (correction 1)."""
    return torch.tensor([[m - 1 for m in middles], [m + 1 for m in middles]])
