"""What a layer is given: three batches, an evaluation, and what the features make of them."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

CHANNELS = 3
POISON = (math.nan, math.inf, -math.inf)


@dataclass
class Step:
    """One forward and backward pass, and the state of the world around it."""

    x: Tensor
    grad_output: Tensor
    residual: Tensor | None = None
    mask: Tensor | None = None
    sample_weight: Tensor | None = None
    training: bool = True
    frozen: bool = False
    """In training, by a frozen layer: the twin evaluates."""
    quiet: bool = False
    """Within `no_update`."""
    single: bool = False
    """One value of every channel is all there is."""
    inserted: bool = False
    """One that a feature adds."""
    nan: bool = False
    """One value is NaN."""


class Draw:
    """Reproducible values.

    Of the channels one is narrow and one is wide, and both are far from 0: batch renormalization
    reaches each of its limits.
    """

    def __init__(self, seed: int, shape: tuple[int, ...]) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.shape = shape

    def normal(self, shape: tuple[int, ...]) -> Tensor:
        return torch.randn(shape, generator=self.generator, dtype=torch.float64)

    def uniform(self, shape: tuple[int, ...]) -> Tensor:
        return torch.rand(shape, generator=self.generator, dtype=torch.float64)

    def step(self, samples: int | None = None, **how: bool) -> Step:
        shape = (self.shape[0] if samples is None else samples, *self.shape[1:])
        column = (1, CHANNELS, *(1,) * (len(shape) - 2))
        scale, offset = torch.tensor([[0.4, 3.0, 1.0], [2.0, -4.0, 0.1]]).double()
        x = self.normal(shape) * scale.view(column) + offset.view(column)
        return Step(x, self.normal(shape), **how)


def draw_steps(seed: int, shape: tuple[int, ...], extra: int, hooks: list) -> list[Step]:
    """Three (and extra) steps of training and one of evaluation, as the features change them."""
    draw = Draw(seed, shape)
    steps = [draw.step() for _ in range(3 + extra)] + [draw.step(training=False)]
    for hook in hooks:
        hook(steps, draw)
    for step in steps:
        _narrow(step)
        _spoil(step)
    return steps


def ordinary(steps: list[Step]) -> Step:
    """The second of the batches that were there from the start."""
    return [step for step in steps if not step.inserted][1]


def add_empty(steps: list[Step], draw: Draw) -> None:
    steps.insert(1, draw.step(samples=0, inserted=True))


def add_hidden(steps: list[Step], draw: Draw) -> None:
    step = draw.step(inserted=True)
    step.mask = torch.zeros(draw.shape[0], *draw.shape[2:], dtype=torch.bool)
    steps.insert(1, step)


def add_single(steps: list[Step], draw: Draw) -> None:
    steps.insert(1, draw.step(single=True, inserted=True))


def add_evaluation(steps: list[Step], draw: Draw) -> None:
    steps.insert(1, draw.step(training=False, inserted=True))


def freeze(steps: list[Step], draw: Draw) -> None:
    for step in steps[1:]:
        step.training = False


def hold(steps: list[Step], draw: Draw) -> None:
    for step in steps[1:]:
        step.training, step.frozen = False, step.training


def give_masks(steps: list[Step], draw: Draw) -> None:
    """Of positions and of samples in turn; none leaves one value in a virtual batch of three."""
    for number, step in enumerate(steps):
        samples, positions = step.x.shape[0], step.x.shape[2:]
        if step.mask is not None:
            continue
        if step.single:
            step.mask = torch.zeros(samples, *positions, dtype=torch.bool)
            step.mask.view(-1)[-1] = True
        elif positions and number % 2 == 0:
            step.mask = draw.uniform((samples, *positions)) > 0.3
            step.mask[3:4] = True
        else:
            step.mask = torch.arange(samples) > 2


def give_weights(steps: list[Step], draw: Draw) -> None:
    """Of positions and of samples in turn, with zeros among them."""
    for number, step in enumerate(steps):
        samples, positions = step.x.shape[0], step.x.shape[2:]
        shape = (samples, *positions) if number % 2 == 0 or step.single else (samples,)
        weights = draw.uniform(shape) * 1.8 + 0.2
        weights[1:2] = 0.0
        if step.single:
            weights *= 0
            weights.view(-1)[-1] = 0.7
        step.sample_weight = weights.float()


def give_residuals(steps: list[Step], draw: Draw) -> None:
    for step in steps:
        step.residual = draw.normal(tuple(step.x.shape))


def put_nan(steps: list[Step], draw: Draw) -> None:
    """In the middle channel of the second batch, where no mask and no weight hides it."""
    step = ordinary(steps)
    step.x[(3, 1, *[0] * (step.x.dim() - 2))] = math.nan
    step.nan = True


def quieten(steps: list[Step], draw: Draw) -> None:
    ordinary(steps).quiet = True


def _narrow(step: Step) -> None:
    """Where no mask and no weights hide the other values, leave them out."""
    if step.single and step.mask is None and step.sample_weight is None:
        one = (slice(0, 1), slice(None), *[slice(0, 1)] * (step.x.dim() - 2))
        for name in ("x", "grad_output", "residual"):
            if getattr(step, name) is not None:
                setattr(step, name, getattr(step, name)[one].clone())


def _spoil(step: Step) -> None:
    """What a mask hides is no number: it must not show anywhere."""
    if step.mask is None:
        return
    hidden = ~step.mask.view(*step.mask.shape, *(1,) * (step.x.dim() - 1 - step.mask.dim()))
    hidden = hidden.unsqueeze(1).expand_as(step.x)
    for tensor, poison in zip((step.x, step.residual, step.grad_output), POISON, strict=True):
        if tensor is not None:
            tensor[hidden] = poison
