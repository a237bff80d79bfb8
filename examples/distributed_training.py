"""Train on handwritten digits with replicas whose batches differ in size.

torchrun --nproc-per-node 2 examples/distributed_training.py

Statistics are those of the batches of all replicas together, and every sample counts once, so the
network that comes out is the one that a single process with the whole batch trains:

python examples/distributed_training.py
"""

import argparse
import os

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

import batchnorm as bn

BATCH, TRAINING, RATE = 60, 1500, 0.2


def network() -> nn.Module:
    """Build the same network in every process."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3),
        bn.BatchNorm2d(8, activation="relu", sync=True),
        nn.Conv2d(8, 16, 3),
        bn.BatchNorm2d(16, activation="relu", sync=True),
        nn.Flatten(),
        nn.Linear(256, 10),
    )


def digits() -> tuple[Tensor, Tensor]:
    """Load 1797 images, (N, 1, 8, 8), and what they show."""
    found = load_digits()
    images = torch.tensor(found.images, dtype=torch.float32).unsqueeze(1)
    return images / 16, torch.tensor(found.target)


def shard(batch: Tensor, rank: int, world: int) -> Tensor:
    """Give a replica its part: the first has twice as much as each of the others."""
    part = len(batch) // (world + 1)
    sizes = [len(batch) - part * (world - 1), *[part] * (world - 1)]
    return batch.split(sizes)[rank]


def train(epochs: int, rank: int, world: int) -> nn.Module:
    """Train; give the network, which is the same on every replica."""
    images, labels = digits()
    model = network()
    wrapped = DistributedDataParallel(model) if world > 1 else model
    optimizer = torch.optim.SGD(wrapped.parameters(), RATE)
    for epoch in range(epochs):
        order = torch.randperm(TRAINING, generator=torch.Generator().manual_seed(epoch))
        for whole in order.split(BATCH):
            mine = shard(whole, rank, world)
            total = F.cross_entropy(wrapped(images[mine]), labels[mine], reduction="sum")
            # DistributedDataParallel averages over replicas; wanted is the mean over samples.
            (total * world / len(whole)).backward()
            optimizer.step()
            optimizer.zero_grad()
    return model.eval()


def main() -> None:
    """Train with as many replicas as torchrun has started, or alone."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--save", help="where the first replica saves the state_dict")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world > 1:
        dist.init_process_group("gloo")
    rank = dist.get_rank() if world > 1 else 0
    model = train(arguments.epochs, rank, world)
    if rank == 0:
        images, labels = digits()
        with torch.no_grad():
            right = (model(images[TRAINING:]).argmax(1) == labels[TRAINING:]).float().mean()
        print(f"{world} replicas: {right:.1%} of {len(labels) - TRAINING} held-out digits")
        if arguments.save:
            torch.save(model.state_dict(), arguments.save)
    if world > 1:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
