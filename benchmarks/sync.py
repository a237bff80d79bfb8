"""Time a synchronized layer on two replicas against the same layer alone, and against torch's.

python benchmarks/sync.py [--replicas 2] [--repeats 200]

PyTorch's SyncBatchNorm refuses tensors on the CPU, so the two references are our layer without
`sync=` and torch's BatchNorm2d, which exchange nothing. All replicas are processes of this machine,
one thread each, over gloo.
"""

import argparse
import json
import statistics
import tempfile
import time
from datetime import timedelta
from pathlib import Path

import torch
from torch import distributed as dist
from torch import multiprocessing as mp
from torch import nn

import batchnorm as bn

SHAPES = ((32, 64, 8, 8), (32, 64, 56, 56), (32, 256, 14, 14), (32, 2048, 7, 7))
WARMUP = 5


def variants(channels: int) -> dict[str, nn.Module]:
    """What is timed, by its name."""
    return {
        "torch, local": nn.BatchNorm2d(channels),
        "ours, local": bn.BatchNorm2d(channels),
        "ours, sync": bn.BatchNorm2d(channels, sync=True),
    }


def time_step(layer: nn.Module, x: torch.Tensor, repeats: int) -> float:
    """Median of a forward and a backward pass, in microseconds."""
    grad = torch.randn_like(x)
    x = x.requires_grad_()
    seconds = []
    for repeat in range(WARMUP + repeats):
        dist.barrier()
        start = time.perf_counter()
        layer(x).backward(grad)
        if repeat >= WARMUP:
            seconds.append(time.perf_counter() - start)
        x.grad = None
        layer.zero_grad()
    return statistics.median(seconds) * 1e6


def time_bare(numbers: int, repeats: int) -> float:
    """Median of the two collectives of a layer by themselves, in microseconds."""
    row, sums = torch.zeros(5 + 3 * numbers), torch.zeros(2 * numbers)
    rows = list(torch.zeros(dist.get_world_size(), len(row)).unbind())
    seconds = []
    for repeat in range(WARMUP + repeats):
        dist.barrier()
        start = time.perf_counter()
        dist.all_gather(rows, row)
        dist.all_reduce(sums)
        if repeat >= WARMUP:
            seconds.append(time.perf_counter() - start)
    return statistics.median(seconds) * 1e6


def work(rank: int, world: int, repeats: int, folder: str) -> None:
    """Time all in one replica; the first prints."""
    torch.set_num_threads(1)
    meeting = f"file://{folder}/meeting"
    dist.init_process_group("gloo", meeting, timedelta(minutes=5), rank=rank, world_size=world)
    rows = []
    for shape in SHAPES:
        x = torch.randn(shape)
        row = {"shape": list(shape)}
        for name, layer in variants(shape[1]).items():
            row[name] = time_step(layer, x, repeats)
        row["its collectives"] = time_bare(shape[1], repeats)
        rows.append({k: v if k == "shape" else round(v, 1) for k, v in row.items()})
    if rank == 0:
        Path(folder, "rows.json").write_text(json.dumps(rows))
    dist.barrier()
    dist.destroy_process_group()


def main() -> None:
    """Print one row for each shape, in microseconds for a forward and a backward pass."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--replicas", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=200)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(work, (arguments.replicas, arguments.repeats, folder), arguments.replicas)
        rows = json.loads(Path(folder, "rows.json").read_text())
    names = [name for name in rows[0] if name != "shape"]
    print("| input | " + " | ".join(names) + " |\n|---|" + "--:|" * len(names))
    for row in rows:
        shape = "×".join(map(str, row["shape"]))
        print(f"| {shape} | " + " | ".join(f"{row[name]:.0f}" for name in names) + " |")


if __name__ == "__main__":
    main()
