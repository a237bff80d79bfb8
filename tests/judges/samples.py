"""The samples of PyTorch's OpInfo of `nn.functional.batch_norm`."""

import pytest
import torch

from .testing_package import OPERATORS

OP = OPERATORS["main"]


def draw(dtype=torch.float64, requires_grad=False, op=OP):
    """Draw all samples, always the same."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return list(op.sample_inputs_func(op, "cpu", dtype, requires_grad))


def label(sample):
    options = "-".join(f"{name}{value}" for name, value in sample.kwargs.items())
    return f"{'x'.join(map(str, sample.input.shape))}-{options or 'defaults'}"


LABELS = [f"{index}-{label(sample)}" for index, sample in enumerate(draw())]

each_sample = pytest.mark.parametrize("index", range(len(LABELS)), ids=LABELS)

# The first use of forward mode in a process imports a module that torch.jit.script warns about.
torchs_own_warning = pytest.mark.filterwarnings(
    "ignore:`torch.jit.script` is deprecated:DeprecationWarning"
)
