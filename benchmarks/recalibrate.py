"""Time of `bn.recalibrate` beside the bare forward passes over the same batches.

    python benchmarks/recalibrate.py --batch 32 --size 64

The network is a ResNet-18 without its pooling at the start, of PyTorch's layers or of ours. `bare`
is a loop without gradients, the network in evaluation; `training`, in training mode. Times are of
the processor, on one thread; ratios are medians over the rounds, in each of which every variant
runs once.
"""

import argparse
import copy
import statistics
import time
from collections.abc import Callable

import torch
from recompute import resnet
from torch import Tensor, nn

import batchnorm as bn


def bare(model: nn.Module, batches: list[Tensor]) -> None:
    """Go through the batches once, and keep nothing."""
    with torch.no_grad():
        for batch in batches:
            model(batch)


def seconds(call: Callable[[], object]) -> float:
    """Processor time of a call."""
    start = time.process_time()
    call()
    return time.process_time() - start


def measure(
    model: nn.Module, batches: list[Tensor], rounds: int, passes: int | None
) -> dict[str, list[float]]:
    """Time every variant in turns, after one round that does not count."""
    evaluated, trained = copy.deepcopy(model).eval(), copy.deepcopy(model).train()
    variants = {
        "bare": lambda: bare(evaluated, batches),
        "training": lambda: bare(trained, batches),
        "recalibrate": lambda: bn.recalibrate(model, batches, progress=False),
    }
    if passes != 1:
        variants["layer by layer"] = lambda: bn.recalibrate(
            model, batches, passes=passes, progress=False
        )
    times: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(rounds + 1):
        for name, call in variants.items():
            times[name].append(seconds(call))
    return {name: values[1:] for name, values in times.items()}


def report(name: str, times: dict[str, list[float]], layers: int) -> str:
    """One line for each variant: milliseconds, and the ratio to the bare passes."""
    lines = []
    for variant, values in times.items():
        passes = layers if variant == "layer by layer" else 1
        ratios = [v / (passes * b) for v, b in zip(values, times["bare"], strict=True)]
        lines.append(
            f"{name:6} {variant:15} {1e3 * statistics.median(values):9.1f} ms  "
            f"{statistics.median(ratios):.2f} of {passes} bare pass{'es' * (passes > 1)} "
            f"(from {min(ratios):.2f} to {max(ratios):.2f})"
        )
    return "\n".join(lines)


def main() -> None:
    """Measure what the arguments ask for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--batches", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--layer-by-layer", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    shape = (options.batch, 3, options.size, options.size)
    batches = [torch.randn(shape) for _ in range(options.batches)]
    for name, ours in (("torch", False), ("ours", True)):
        model = resnet("resnet18", ours)
        layers = sum(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in model.modules())
        passes = None if options.layer_by_layer else 1
        print(report(name, measure(model, batches, options.rounds, passes), layers), flush=True)


if __name__ == "__main__":
    main()
