"""Whole training steps of ResNet-50: PyTorch's layers, the same compiled, and ours."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from resnet import resnet
from torch import Tensor, nn
from torch.nn import functional as F

from batchnorm.bench import rows
from batchnorm.bench.case import CHANNELS_LAST, COMPILE, EAGER, OURS, Case, Operation
from batchnorm.bench.devices import Device
from batchnorm.bench.timing import Step, Stopwatch, interleave
from batchnorm.records import Timing

from .checks import Wrong

RESNET50 = Operation("resnet50", relu=True, residual=True, inference=False, passes={}, twice={})

CLASSES = 1000
LIMIT = {"float32": 1e-3, "bfloat16": 5e-2}
"""How far the first losses may be apart: the networks are the same but for rounding."""


@dataclass(frozen=True)
class Size:
    """How large the network and its batch are."""

    batch: int = 256
    image: int = 224
    width: int = 64


def training_steps(
    device: Device, dtype: str, size: Size, seconds: float, with_compile: bool
) -> tuple[list[Timing], str]:
    """Time whole steps, channels-last: forward, loss, backward and SGD.

    Returns:
        The rows, and the losses of the first step in words.

    Raises:
        Wrong: Those are not alike.
    """
    case = Case((size.batch, 3, size.image, size.image), CHANNELS_LAST, dtype, RESNET50)
    steps: dict[str, Step] = {}
    losses: dict[str, float] = {}
    missing: dict[str, str] = {}
    for name in (OURS, EAGER, *([COMPILE] if with_compile else [])):
        step = make_step(device, dtype, size, name)
        try:
            losses[name] = step.forward()
            steps[name] = step
        except Exception as error:
            if name == OURS:
                raise
            missing[name] = f"{type(error).__name__}: {error}"[:160]
    compare(losses, LIMIT[dtype])
    found = interleave(steps, seconds, Stopwatch())
    said = ", ".join(f"{name} {loss:.4f}" for name, loss in losses.items())
    return rows.steps(case, found, missing), said


def compare(losses: dict[str, float], limit: float) -> None:
    """Refuse losses that are not those of the same network.

    Raises:
        Wrong: One differs from ours by more than a share of it.
    """
    ours = losses[OURS]
    for name, loss in losses.items():
        if not abs(loss - ours) <= limit * abs(ours):
            raise Wrong(f"the first loss is {ours:.4f} with our layers, {loss:.4f} with {name}")


def make_step(device: Device, dtype: str, size: Size, name: str) -> Step:
    """Make a training step, always of the same weights and images; it waits for its loss.

    So the clock of the host times it, and Python is part of it where it is slower than the GPU, as
    in training.
    """
    torch.manual_seed(0)
    model = resnet("resnet50", name == OURS, size.width, CLASSES)
    x = torch.randn(size.batch, 3, size.image, size.image)
    target = torch.randint(CLASSES, (size.batch,))
    layout = {"device": device.place, "memory_format": torch.channels_last}
    model, x, target = model.to(**layout), x.to(**layout), target.to(device.place)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    forward = _compiled(model) if name == COMPILE else model
    precision = _precision(device, dtype)

    def step() -> float:
        optimizer.zero_grad()
        with precision():
            loss = F.cross_entropy(forward(x).float(), target)
        loss.backward()
        optimizer.step()
        return loss.item()

    return Step(step)


def _compiled(model: nn.Module) -> Callable[[Tensor], Tensor]:
    torch._dynamo.reset()
    return torch.compile(model, dynamic=False)


def _precision(device: Device, dtype: str) -> Callable[[], AbstractContextManager[object]]:
    if dtype == "float32":
        return nullcontext
    kind, half = device.place.type, getattr(torch, dtype)
    return lambda: torch.autocast(kind, dtype=half)
