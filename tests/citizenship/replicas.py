"""Training by two processes, and the same by one that plays both."""

import time
from contextlib import ExitStack, nullcontext
from datetime import timedelta
from typing import NamedTuple

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

import batchnorm as bn

from .cases import batch, layer, state

WORLD = 2
STEPS = 3
TIMEOUT = 60


class Scenario(NamedTuple):
    """How to train: options of the layer, of the wrapper, and what a step does."""

    options: str = "plain"
    step: str = "one"
    broadcast_buffers: bool = True
    find_unused_parameters: bool = False
    frozen: bool = False


class Network(nn.Module):
    """Two layers of ours; the branch is used by even steps only."""

    def __init__(self, scenario):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(4, 4, 2)
        self.norm = layer(options=scenario.options)
        self.branch = nn.Sequential(nn.Conv2d(4, 4, 1), layer(activation="relu"))
        self.norm.train(not scenario.frozen)
        self.scenario = scenario

    def forward(self, x, both):
        y = self.conv(x)
        if self.scenario.step == "checkpointed":
            y = checkpoint(self.norm, y, use_reentrant=False)
        else:
            y = self.norm(y)
        return y + self.branch(y) if both else y


def inputs(rank, step, scenario):
    """What a rank sees in a step: input and whether the branch is used, for every forward."""
    count = {"two": 2, "pooled": 3}.get(scenario.step, 1)
    both = not scenario.find_unused_parameters or step % 2 == 0
    seeds = [100 * step + 10 * rank + k for k in range(count)]
    return [(batch(seed=seed) * (1 + rank) + rank, both) for seed in seeds]


def train(scenario, rank):
    """What one of the processes does; gives the state it ends with."""
    model = Network(scenario)
    wrapped = DistributedDataParallel(
        model,
        broadcast_buffers=scenario.broadcast_buffers,
        find_unused_parameters=scenario.find_unused_parameters,
    )
    for step in range(STEPS):
        *first, last = inputs(rank, step, scenario)
        if scenario.step == "two":  # as a GAN does: two forward passes, then one backward pass
            losses = [wrapped(*piece).square().mean() for piece in (*first, last)]
            sum(losses).backward()
        else:
            with bn.accumulate(wrapped) if scenario.step == "pooled" else nullcontext():
                for piece in first:
                    with wrapped.no_sync():
                        wrapped(*piece).square().mean().backward()
                wrapped(*last).square().mean().backward()
        descend([model])
    return state(model)


def expect(scenario):
    """The same with one copy of the model for each rank: the states they end with."""
    models = [Network(scenario) for _ in range(WORLD)]
    sync_next = True
    for step in range(STEPS):
        pieces = [inputs(rank, step, scenario) for rank in range(WORLD)]
        losses = []
        with ExitStack() as pools:
            for model in models if scenario.step == "pooled" else ():
                pools.enter_context(bn.accumulate(model))
            for each in zip(*pieces, strict=True):
                if scenario.broadcast_buffers and sync_next:
                    copy_buffers(*models)
                losses += [m(*piece).square().mean() for m, piece in zip(models, each, strict=True)]
                # After a forward pass inside no_sync, the next one does not exchange buffers.
                sync_next = scenario.step == "two" or len(losses) == WORLD * len(pieces[0])
            sum(losses).backward()
        average_gradients(models)
        descend(models)
    return [state(model) for model in models]


def copy_buffers(source, *others):
    for other in others:
        for mine, its in zip(source.buffers(), other.buffers(), strict=True):
            its.copy_(mine)


def average_gradients(models):
    for tensors in zip(*(model.parameters() for model in models), strict=True):
        if tensors[0].grad is not None:
            mean = torch.stack([p.grad for p in tensors]).mean(0)
            for p in tensors:
                p.grad = mean.clone()


def descend(models):
    with torch.no_grad():
        for model in models:
            for p in model.parameters():
                if p.grad is not None:
                    p -= 0.1 * p.grad
                    p.grad = None


def run(scenarios, folder):
    """Train every scenario in two processes; give the states of each rank, or its error."""
    context = mp.spawn(_work, (scenarios, folder), nprocs=WORLD, join=False)
    deadline = time.monotonic() + TIMEOUT
    while not context.join(timeout=1.0):  # true when all have ended; raises what one has raised
        if time.monotonic() > deadline:
            for process in context.processes:
                process.kill()
            raise TimeoutError(f"the replicas did not end in {TIMEOUT} s")
    return [torch.load(folder / f"{rank}.pt") for rank in range(WORLD)]


def _work(rank, scenarios, folder):
    torch.set_num_threads(1)
    timeout = timedelta(seconds=TIMEOUT / 2)
    meeting = f"file://{folder / 'meeting'}"
    dist.init_process_group("gloo", meeting, timeout, rank=rank, world_size=WORLD)
    found = []
    for scenario in scenarios:
        try:
            found.append(train(scenario, rank))
        except RuntimeError as error:
            found.append(str(error))
    torch.save(found, folder / f"{rank}.pt")
    dist.destroy_process_group()
