"""Memory and time of `bn.recompute()` for residual networks, beside PyTorch's own layers.

    python benchmarks/recompute.py --batch 32 --size 64

`torch` is BatchNorm2d, `out += identity` and ReLU(inplace=True); `fused` is our layers with
`activation="relu"` and the residual; `recompute` is `fused` inside the context. Saved bytes are
those of all that autograd saves but parameters; the peak is what a training step adds to the
resident memory of a fresh process. Times are medians of processor time on one thread, the variants
in turns.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

import torch
from resnet import NETWORKS, resnet
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

import batchnorm as bn
from batchnorm.ops import recompute

VARIANTS = ("torch", "fused", "recompute")
UNITS = {"saved_bytes": 1e-6, "peak_bytes": 1e-6, "seconds": 1e3}


def context(variant: str) -> AbstractContextManager[None]:
    """What the forward pass of a variant runs in."""
    return bn.recompute() if variant == "recompute" else nullcontext()


def train(model: nn.Module, x: Tensor, variant: str = "torch") -> None:
    """One forward and backward pass."""
    model.zero_grad(set_to_none=False)  # gradients are there before the step that is measured
    with context(variant):
        y = model(x)
    y.square().mean().backward()


@contextmanager
def watched(variant: str) -> Iterator[Callable[[], int]]:
    """Count the bytes that autograd has saved so far, parameters excepted."""
    saved: list[Tensor | recompute.Part] = []
    if variant != "recompute":

        def pack(tensor: Tensor) -> Tensor:
            saved.append(tensor)
            return tensor.detach()

        with saved_tensors_hooks(pack, lambda tensor: tensor):
            yield lambda: bytes_of(saved)
        return
    outputs = _Watched(saved)
    with saved_tensors_hooks(outputs.pack, outputs.unpack):
        yield lambda: bytes_of(saved)


class _Watched(recompute.Outputs):
    def __init__(self, saved: list) -> None:
        super().__init__()
        self.saved = saved

    def pack(self, tensor: Tensor) -> recompute.Plain | recompute.Part:
        """Note what stands for a tensor."""
        found = super().pack(tensor)
        self.saved.append(tensor if isinstance(found, recompute.Plain) else found)
        return found


def bytes_of(saved: list) -> int:
    """The memory of tensors, and of those that recipes refer to, each counted once."""
    tensors = []
    for one in saved:
        whole = isinstance(one, recompute.Part)
        tensors += [o.tensor for o in one.recipe.origins] if whole else [one]
    storages = {
        tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes()
        for tensor in tensors
        if not isinstance(tensor, nn.Parameter)
    }
    return sum(storages.values())


def saved_bytes(model: nn.Module, x: Tensor, variant: str) -> int:
    """Count what is saved between forward and backward."""
    with watched(variant) as count:
        y = model(x)
        return count() + 0 * y.numel()


def build(args: argparse.Namespace, name: str, variant: str) -> tuple[nn.Module, Tensor]:
    """The network of a variant, and a batch."""
    torch.manual_seed(0)
    model = resnet(name, variant != "torch", args.width)
    x = torch.randn(args.batch, 3, args.size, args.size)
    if args.channels_last:
        model = model.to(memory_format=torch.channels_last)
        x = x.to(memory_format=torch.channels_last)
    return model, x


def peak(args: argparse.Namespace, name: str, variant: str) -> int:
    """What a step adds at most to the resident memory of this process, in bytes (Linux)."""
    model, x = build(args, name, variant)
    train(model, x, variant)
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = _status("VmRSS")
    train(model, x, variant)
    return _status("VmHWM") - before


def _status(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name + ":"):
            return 1024 * int(line.split()[1])
    raise KeyError(name)


def peak_in_fresh_process(name: str, variant: str) -> int:
    """Ask a process of its own."""
    command = [sys.executable, __file__, *sys.argv[1:], "--peak", name, variant]
    # glibc otherwise keeps freed memory, and the peak would be that of earlier steps.
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0"}
    found = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    return int(found.stdout)


def times(args: argparse.Namespace, name: str) -> dict[str, float]:
    """Median processor time of a step in seconds, the variants in turns."""
    made = {variant: build(args, name, variant) for variant in VARIANTS}
    found: dict[str, list[float]] = {variant: [] for variant in VARIANTS}
    for repeat in range(args.repeats + 1):
        for variant, (model, x) in made.items():
            start = time.process_time()
            train(model, x, variant)
            if repeat:
                found[variant].append(time.process_time() - start)
    return {variant: statistics.median(each) for variant, each in found.items()}


def measure(args: argparse.Namespace, name: str) -> dict[str, dict[str, float]]:
    """All figures of a network, by variant."""
    rows = {}
    seconds = times(args, name)
    for variant in VARIANTS:
        rows[variant] = {
            "saved_bytes": saved_bytes(*build(args, name, variant), variant),
            "peak_bytes": peak_in_fresh_process(name, variant),
            "seconds": seconds[variant],
        }
    return rows


def show(name: str, rows: dict[str, dict[str, float]]) -> None:
    """Print a table."""
    print(f"\n{name:<12}{'saved MB':>10}{'':>6}{'peak MB':>10}{'':>6}{'ms':>10}")
    first = rows["torch"]
    for variant, row in rows.items():
        cells = [
            f"{row[key] * unit:10.1f}{row[key] / first[key]:6.2f}" for key, unit in UNITS.items()
        ]
        print(f"{variant:<12}{''.join(cells)}")


def table(found: dict[str, dict[str, dict[str, float]]]) -> str:
    """The rows as a table in Markdown."""
    lines = ["| | saved, MB | | peak, MB | | time, ms | |", "|---|---:|---:|---:|---:|---:|---:|"]
    for name, rows in found.items():
        for variant, row in rows.items():
            cells = [f"{name}, {variant}"]
            for key, unit in UNITS.items():
                cells += [f"{row[key] * unit:.0f}", f"{row[key] / rows['torch'][key]:.2f}"]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Measure and print; save what was measured where asked to."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--size", type=int, default=64, help="height and width of the images")
    parser.add_argument("--width", type=int, default=64, help="channels of the first stage")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--channels-last", action="store_true")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--peak", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.peak:
        print(peak(args, *args.peak))
        return
    found = {}
    for name in args.networks:
        found[name] = measure(args, name)
        show(name, found[name])
    if args.json:
        versions = {"torch": torch.__version__, "batchnorm": bn.__version__}
        versions["cpu"] = torch.backends.cpu.get_cpu_capability()
        options = {k: v for k, v in vars(args).items() if k not in ("json", "peak")}
        args.json.write_text(json.dumps({**versions, **options, "rows": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
