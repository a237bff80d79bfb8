"""Time and memory of a training step of a ResNet, of PyTorch's layers and converted.

    python benchmarks/convert.py --batch 16 --size 64

The network is the one of `examples/resnet.py`, as it is usually written: `out += identity`, one
`nn.ReLU(inplace=True)` called at several places. `torch` is that network, `fused` what
`bn.convert(model, example)` makes of it, `recompute` the same inside `bn.recompute()`. A step is
forward, backward, and SGD with momentum. Times are of the processor, the variants in turns; ratios
are medians over rounds, in each of which every variant runs once. The peak is what a training step
adds to the resident memory of a fresh process, whose gradients and momentum are there already.
"""

import argparse
import ctypes
import os
import statistics
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import torch
from torch import Tensor, nn

import batchnorm as bn

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
from resnet import BasicBlock, Bottleneck, ResNet

NETWORKS = {"resnet18": (BasicBlock, (2, 2, 2, 2)), "resnet50": (Bottleneck, (3, 4, 6, 3))}
VARIANTS = ("torch", "fused", "recompute")


class Trainer:
    """One variant of a network, and its optimizer."""

    def __init__(self, name: str, variant: str, x: Tensor) -> None:
        torch.manual_seed(0)
        block, depths = NETWORKS[name]
        model: nn.Module = ResNet(block, depths)
        if variant != "torch":
            model = bn.convert(model, x[:2, :, :32, :32]).model
        self.model, self.variant, self.x = model.train(), variant, x
        self.optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)

    def step(self) -> float:
        """Train on one batch; return the loss."""
        self.optimizer.zero_grad(set_to_none=False)
        with bn.recompute() if self.variant == "recompute" else nullcontext():
            loss = self.model(self.x).square().mean()
        loss.backward()
        self.optimizer.step()
        return float(loss.detach())


def times(name: str, x: Tensor, rounds: int) -> dict[str, list[float]]:
    """Seconds of a step of every variant, in turns, after two rounds that do not count."""
    trainers = {variant: Trainer(name, variant, x) for variant in VARIANTS}
    found: dict[str, list[float]] = {variant: [] for variant in VARIANTS}
    for _ in range(rounds + 2):
        for variant, trainer in trainers.items():
            start = time.process_time()
            trainer.step()
            found[variant].append(time.process_time() - start)
    return {variant: values[2:] for variant, values in found.items()}


def peak(name: str, variant: str, x: Tensor) -> int:
    """Bytes by which a training step raises the resident memory of this process at most."""
    trainer = Trainer(name, variant, x)
    trainer.step()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark begins here
    before = _status("VmRSS")
    trainer.step()
    return _status("VmHWM") - before


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def in_fresh_process(options: argparse.Namespace, variant: str) -> int:
    """The peak of one variant, measured by this script in a process of its own."""
    arguments = [f"--{k}={getattr(options, k)}" for k in ("network", "batch", "size", "threads")]
    command = [sys.executable, __file__, *arguments, f"--peak={variant}"]
    # glibc otherwise keeps freed memory, and the peak would be that of earlier steps.
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0"}
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    return int(done.stdout)


def report(options: argparse.Namespace, x: Tensor) -> None:
    """Print one line for each variant."""
    found = times(options.network, x, options.rounds)
    for variant, values in found.items():
        ratios = [a / b for a, b in zip(found["torch"], values, strict=True)]
        low, _, high = statistics.quantiles(ratios, n=4)
        bytes_ = in_fresh_process(options, variant)
        print(
            f"{options.network} {variant:9} {1e3 * statistics.median(values):8.1f} ms  "
            f"{statistics.median(ratios):.2f}x of torch's speed (quartiles {low:.2f} to "
            f"{high:.2f})  peak {bytes_ / 1e6:.0f} MB",
            flush=True,
        )


def main() -> None:
    """Measure what the arguments ask for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", choices=NETWORKS, default="resnet18")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--peak", choices=VARIANTS, help="print only the peak of one variant")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    x = torch.randn(options.batch, 3, options.size, options.size)
    if options.peak:
        print(peak(options.network, options.peak, x))
    else:
        report(options, x)


if __name__ == "__main__":
    main()
