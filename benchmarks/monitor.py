"""Time that `bn.Monitor` adds to a training step.

    python benchmarks/monitor.py --batch 32 --size 32

Two copies of a network are trained in turns, step by step, one with a monitor that measures in
every tenth step. What one with `every=100` adds is what its hook adds to a step without a
measurement, and a hundredth of what a measurement adds. Times are of the processor, on one thread;
each is a median, and the spread is that between the quarters of the run.
"""

import argparse
import copy
import statistics
import time
from collections.abc import Callable

import torch
from recompute import resnet
from torch import nn

import batchnorm as bn

OFTEN = 10
"""Steps from one measurement to the next, here."""


def mlp() -> nn.Module:
    """Two hidden layers of 256: hardly more work than calling the layers is."""
    layers: list[nn.Module] = []
    for _ in range(2):
        layers += [nn.Linear(256, 256, bias=False), nn.BatchNorm1d(256), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(256, 10))


def stepper(model: nn.Module, x: torch.Tensor) -> Callable[[], float]:
    """Make a training step that tells its processor time."""
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)

    def step() -> float:
        start = time.process_time()
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()
        return time.process_time() - start

    return step


def added(model: nn.Module, x: torch.Tensor, every: int, steps: int) -> tuple[float, float]:
    """Measure a step, and what a monitor adds to it, in seconds."""
    watched = copy.deepcopy(model)
    plain, monitored = stepper(model, x), stepper(watched, x)
    without: list[float] = []
    counting: list[float] = []
    measuring: list[float] = []
    with bn.Monitor(watched, OFTEN):
        for number in range(steps):
            without.append(plain())
            (counting if number % OFTEN else measuring).append(monitored())
    bare, hooked, measured = map(statistics.median, (without, counting, measuring))
    return bare, hooked - bare + (measured - hooked) / every


def main() -> None:
    """Measure what the arguments ask for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--every", type=int, default=100)
    parser.add_argument("--steps", type=int, default=100, help="of each quarter, for the ResNet")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    shape = (options.batch, 3, options.size, options.size)
    networks = {
        "resnet18": (resnet("resnet18", False), shape, options.steps),
        "mlp": (mlp(), (options.batch, 256), 20 * options.steps),
    }
    for name, (model, shape, steps) in networks.items():
        x = torch.randn(shape)
        added(model.train(), x, options.every, OFTEN)
        quarters = [added(model, x, options.every, steps) for _ in range(4)]
        shares = [more / step for step, more in quarters]
        print(
            f"{name:9} {statistics.median(step for step, _ in quarters) * 1e3:8.2f} ms a step, "
            f"{statistics.median(shares):+.2%} with a monitor "
            f"(from {min(shares):+.2%} to {max(shares):+.2%})",
            flush=True,
        )


if __name__ == "__main__":
    main()
