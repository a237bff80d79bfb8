"""The inputs of ModuleInfo of every batch normalization layer, for ours and for torch's."""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

import batchnorm

from .testing_package import MODULES

FLAGS = {"train": True, "eval": False}


def draw(name: str, dtype=torch.float64, requires_grad=False, training=True):
    """Draw the inputs of a ModuleInfo, always the same."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        info = MODULES[name]
        return info.module_inputs_func(
            info, device="cpu", dtype=dtype, requires_grad=requires_grad, training=training
        )


def draw_errors(name: str):
    """Draw the inputs that must raise."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        info = MODULES[name]
        return info.module_error_inputs_func(
            info, device="cpu", dtype=torch.float32, requires_grad=False, training=True
        )


@dataclass(frozen=True)
class Case:
    """One ModuleInput."""

    name: str
    index: int

    def __str__(self) -> str:
        what = draw(self.name)[self.index].desc or "default"
        return f"{self.name}-{self.index}-{what}"

    @property
    def is_empty(self) -> bool:
        return not self.input().numel()

    def input(self, dtype=torch.float64, requires_grad=False) -> Tensor:
        drawn = draw(self.name, dtype, requires_grad)[self.index].forward_input
        assert len(drawn.args) == 1
        assert not drawn.kwargs
        return drawn.args[0]

    def arguments(self) -> tuple[tuple, dict]:
        given = draw(self.name)[self.index].constructor_input
        return given.args, given.kwargs

    def torchs(self, training=True, **options) -> nn.Module:
        """Layer of torch, with parameters and statistics that are all different."""
        args, kwargs = self.arguments()
        layer = MODULES[self.name].module_cls(*args, **kwargs, **options)
        return randomize(layer).train(training)

    def ours(self, training=True, **options) -> nn.Module:
        """Layer of ours made of the same arguments, with the state of torch's."""
        args, kwargs = self.arguments()
        layer = getattr(batchnorm, self.name)(*args, **kwargs, **options)
        if not next(iter(layer.state_dict().values()), torch.zeros(0)).is_meta:
            layer.load_state_dict(self.torchs(**options).state_dict(), strict=True)
        return layer.train(training)


def randomize(layer: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, t in layer.state_dict().items():
            if t.is_floating_point() and not t.is_meta:
                low = -1.0 if name in ("bias", "running_mean") else 0.5
                t.copy_(torch.empty(t.shape).uniform_(low, 2.0, generator=generator))
    return layer


CASES = [Case(name, index) for name in MODULES for index in range(len(draw(name)))]
ERRORS = [(name, index) for name in MODULES for index in range(len(draw_errors(name)))]

each_case = pytest.mark.parametrize("case", CASES, ids=str)
each_mode = pytest.mark.parametrize("training", FLAGS.values(), ids=FLAGS)
