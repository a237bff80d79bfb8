"""Layers of ours beside torch's of the same parameters, batches for them, and their whole state."""

from itertools import chain

import pytest
import torch
from torch import nn

import batchnorm as bn

CLASSES = (bn.BatchNorm1d, bn.BatchNorm2d, bn.BatchNorm3d)
TORCH = {
    bn.BatchNorm1d: nn.BatchNorm1d,
    bn.BatchNorm2d: nn.BatchNorm2d,
    bn.BatchNorm3d: nn.BatchNorm3d,
}
SHAPES = {
    bn.BatchNorm1d: (12, 4, 3),
    bn.BatchNorm2d: (12, 4, 3, 2),
    bn.BatchNorm3d: (12, 4, 3, 2, 2),
}
LARGE = (16, 4, 32, 34)  # above functional.SMALL, where a Function of ours is at work
ACTIVATIONS = {
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "elu": nn.ELU,
    "silu": nn.SiLU,
    "gelu": nn.GELU,
    "hardswish": nn.Hardswish,
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
}
RENORM_AT_ONCE = {"r_max": 1.5, "d_max": 0.5, "warmup_steps": 0, "ramp_steps": 0}
OPTIONS = {
    "plain": {},
    "average": {"momentum": None},
    "fused": {"activation": "silu"},
    "virtual": {"virtual_batch_size": 5},
    "renorm": {"renorm": RENORM_AT_ONCE, "num_batches_tracked": 1},
}
CALLS = ("plain", "residual", "mask", "sample_weight")

each_class = pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
each_option = pytest.mark.parametrize("options", OPTIONS)
each_mode = pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
each_size = pytest.mark.parametrize("size", ["small", "large"])


def layer(cls=bn.BatchNorm2d, options="plain", *, channels=4, **more):
    """A layer of ours with parameters and buffers that are all different."""
    chosen = {**OPTIONS[options], **more}
    steps = chosen.pop("num_batches_tracked", 0)
    if "renorm" in chosen:
        chosen["renorm"] = bn.Renorm(**chosen["renorm"])
    made = cls(channels, **chosen)
    randomize(made)
    if made.track_running_stats:
        made.num_batches_tracked.fill_(steps)
    return made


def randomize(*layers):
    """Give layers the same parameters and running statistics, none of them a default."""
    for made in layers:
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for name in ("weight", "bias", "running_mean", "running_var"):
                tensor = getattr(made, name)
                if tensor is not None:
                    low = -1.0 if name in ("bias", "running_mean") else 0.5
                    tensor.copy_(torch.empty(tensor.shape).uniform_(low, 2.0, generator=generator))


def pair(cls=bn.BatchNorm2d, *, channels=4, activation=None, **options):
    """A layer of ours, and torch's with the same parameters, followed by its own activation."""
    ours = cls(channels, activation=activation, **options)
    its = TORCH[cls](channels, **options)
    randomize(ours, its)
    return ours, its if activation is None else nn.Sequential(its, ACTIVATIONS[activation]())


def batch(cls=bn.BatchNorm2d, size="small", *, seed=0, dtype=torch.float32):
    """Values (N, 4, *S) with mean 1 and standard deviation 2."""
    shape = SHAPES[cls] if size == "small" else LARGE
    if size == "large" and cls is not bn.BatchNorm2d:
        shape = (*LARGE[:2], -1) if cls is bn.BatchNorm1d else (*LARGE, 1)
    x = torch.randn(LARGE if size == "large" else shape, generator=_generator(seed))
    return (1 + 2 * x).reshape(shape).to(dtype)


def call_arguments(kind, x, seed=100):
    """What a call takes besides its input."""
    positions = (x.shape[0], *x.shape[2:])
    if kind == "residual":
        return {"residual": torch.randn(x.shape, generator=_generator(seed)).to(x.dtype)}
    if kind == "mask":
        return {"mask": torch.rand(positions, generator=_generator(seed)) < 0.7}
    if kind == "sample_weight":
        return {"sample_weight": torch.rand(positions, generator=_generator(seed)).to(x.dtype)}
    return {}


def loss(y):
    """A number whose gradient is large whatever y is; that of Σy² all but vanishes here."""
    return (y * torch.arange(y.numel(), dtype=y.dtype).cos().view(y.shape)).sum()


def _generator(seed):
    return torch.Generator().manual_seed(seed)


def state(module):
    """Copies of all parameters and all buffers, those that are not saved as well."""
    tensors = chain(module.named_parameters(), module.named_buffers())
    return {name: tensor.detach().clone() for name, tensor in tensors}


def assert_identical(found, expected):
    """Hold two dictionaries of tensors to be equal bit for bit."""
    assert_close(found, expected, rtol=0, atol=0)


def assert_close(found, expected, **tolerance):
    """Hold two dictionaries of tensors to be equal up to rounding."""
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(
            found[name], tensor, **tolerance, msg=lambda text, name=name: f"{name}: {text}"
        )


def without_count(tensors):
    """Leave out what torch's layer does not have: how many batches were not finite."""
    return {k: v for k, v in tensors.items() if not k.endswith("num_nonfinite")}
