"""One training run: stochastic gradient descent with a constant learning rate.

A run diverges when its loss stops being finite, or ends clearly higher than it began.
"""

import dataclasses
import math
import time
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from .data import Data, Part, batches
from .design import Problem

SMOOTHING_SHARE = 0.1
"""Share of the steps, at the end, over which the training loss is averaged."""

DIVERGENCE = 1.1
"""A run whose loss ends above so many times the initial loss has diverged. One that ends about
where it began has merely not learned."""

LEARNING_MARGIN = 0.1
"""Train accuracy above chance from which a network counts as trained."""

OK, DIVERGED, FAILED = "ok", "diverged", "failed"


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What a network does after so many steps, in eval mode."""

    step: int
    train_loss: float | None
    train_accuracy: float | None
    val_accuracy: float | None
    test_loss: float | None
    test_accuracy: float | None


@dataclasses.dataclass(frozen=True)
class Training:
    """How a run went."""

    status: str
    steps: int
    seconds: float
    """Time in training steps alone."""
    improved: bool
    """Its loss ended lower than it began."""


class Observer(Protocol):
    """Looks at a run while it goes on, and leaves it as it was."""

    def before(self, step: int, model: nn.Module) -> None:
        """See the network that has made `step` steps."""

    def around(
        self, step: int, model: nn.Module, x: Tensor, y: Tensor
    ) -> Callable[[], None] | None:
        """See the network before an update; what is returned is called after the update."""


def train(
    model: nn.Module,
    data: Data,
    problem: Problem,
    lr: float,
    steps: int,
    seed: int,
    observer: Observer | None = None,
) -> Training:
    """Train a network in place.

    Args:
        model: The network.
        data: Its data; the order of the batches depends on the seed alone.
        problem: Batch size and momentum.
        lr: The learning rate.
        steps: How many updates, unless the run diverges before.
        seed: The seed of the order and of dropout.
        observer: Sees the network before each step and after the last.

    Returns:
        Whether it diverged, and what it cost.
    """
    torch.manual_seed(seed)
    model.train()
    # One call for all parameters: a tenth of a small network's step is saved.
    optimizer = torch.optim.SGD(
        model.parameters(), lr=lr, momentum=problem.momentum, fused=_can_fuse(model)
    )
    losses: list[float] = []
    seconds = 0.0
    for step, (x, y) in enumerate(batches(data, problem.batch_size, steps, seed)):
        after = None
        if observer is not None:
            observer.before(step, model)
            after = observer.around(step, model, x, y)
        start = time.perf_counter()
        losses.append(_step(model, optimizer, x, y))
        seconds += time.perf_counter() - start
        if not math.isfinite(losses[-1]):
            return Training(DIVERGED, step + 1, seconds, improved=False)
        if after is not None:
            after()
    if observer is not None:
        observer.before(steps, model)
    last = _last_tenth(losses)
    status = OK if last <= DIVERGENCE * losses[0] else DIVERGED
    return Training(status, steps, seconds, improved=last < losses[0])


def evaluate(model: nn.Module, part: Part) -> tuple[float, float]:
    """Mean cross-entropy (nats) and accuracy in eval mode; flags and random state are kept.

    A network whose output is not finite has an infinite loss; NaN scores are never correct.
    """
    flags = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.inference_mode(), torch.random.fork_rng(devices=[]):
            scores = torch.cat([model(x) for x in torch.split(part.x, 4096)])
    finally:
        for module, flag in flags.items():
            module.training = flag
    loss = float(functional.cross_entropy(scores, part.y))
    finite = torch.isfinite(scores).all(1)
    correct = (scores.argmax(1) == part.y) & finite
    return loss if math.isfinite(loss) else math.inf, float(correct.float().mean())


def evaluate_all(model: nn.Module, data: Data, step: int) -> Evaluation:
    """Evaluate all three parts."""
    train_loss, train_accuracy = evaluate(model, data.train)
    _, val_accuracy = evaluate(model, data.val)
    test_loss, test_accuracy = evaluate(model, data.test)
    return Evaluation(step, train_loss, train_accuracy, val_accuracy, test_loss, test_accuracy)


def has_learned(train_accuracy: float | None, classes: int) -> bool:
    """Whether a network is better than chance by a clear margin."""
    return train_accuracy is not None and train_accuracy > 1 / classes + LEARNING_MARGIN


def evaluation_steps(steps: int, ratio: float = 1.2) -> tuple[int, ...]:
    """Geometrically spaced steps from 1 to the last: fine early, where things happen.

    Example:
        >>> evaluation_steps(20, ratio=2.0)
        (1, 2, 4, 8, 16, 20)
    """
    spaced, at = {steps}, 1.0
    while at < steps:
        spaced.add(round(at))
        at *= ratio
    return tuple(sorted(spaced))


def _step(model: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor) -> float:
    optimizer.zero_grad()
    loss = functional.cross_entropy(model(x), y)
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    return float(loss.detach())


def _last_tenth(losses: list[float]) -> float:
    tail = losses[-max(1, round(SMOOTHING_SHARE * len(losses))) :]
    return sum(tail) / len(tail)


def _can_fuse(model: nn.Module) -> bool:
    return all(p.is_floating_point() for p in model.parameters())
