"""What replicas do wrong, one of them at a time."""

import os
import signal
import time
from typing import Any

import torch
from torch import Tensor, nn

import batchnorm as bn
from batchnorm.errors import BatchNormError

WAIT = 3.0
"""Seconds the watch waits for the others."""


class Net(nn.Module):
    """Two layers; a replica can leave one out."""

    def __init__(self) -> None:
        super().__init__()
        self.first = bn.BatchNorm1d(3, sync=True)
        self.second = bn.BatchNorm1d(3, sync=True)

    def forward(self, x: Tensor, skip: str = "") -> Tensor:
        for name in ("first", "second"):
            if name != skip:
                x = getattr(self, name)(x)
        return x


def batch(rank: int) -> Tensor:
    torch.manual_seed(rank)
    return torch.randn(4 + rank, 3)


def do(rank: int, world: int, fault: str) -> dict[str, Any]:
    """Train one good step, then do something wrong on the last replica; then, if can be, go on."""
    net = Net()
    net(batch(rank)).sum().backward()
    before = {k: v.clone() for k, v in net.named_buffers()}
    start = time.monotonic()
    found: dict[str, Any] = {"error": None}
    try:
        FAULTS[fault](net, rank, rank == world - 1)
    except (BatchNormError, ValueError) as error:
        found["error"] = error
    found["seconds"] = time.monotonic() - start
    found["same"] = all(torch.equal(v, before[k]) for k, v in net.named_buffers())
    if fault in RECOVERS:
        found["after"] = net(batch(rank)).detach()
    return found


def skip_last(net: Net, rank: int, bad: bool) -> None:
    with bn.sync_debug(WAIT):
        net(batch(rank), skip="second" if bad else "")


def skip_first(net: Net, rank: int, bad: bool) -> None:
    with bn.sync_debug(WAIT):
        net(batch(rank), skip="first" if bad else "")


def no_backward(net: Net, rank: int, bad: bool) -> None:
    with bn.sync_debug(WAIT):
        y = net(batch(rank).requires_grad_())
        if not bad:
            y.sum().backward()


def watched(net: Net, rank: int, bad: bool) -> None:
    """Nothing is wrong."""
    with bn.sync_debug(WAIT):
        net(batch(rank).requires_grad_()).sum().backward()


def killed(net: Net, rank: int, bad: bool) -> None:
    if bad:
        os.kill(os.getpid(), signal.SIGKILL)
    net(batch(rank))


def killed_in_backward(net: Net, rank: int, bad: bool) -> None:
    y = net(batch(rank).requires_grad_())
    if bad:
        os.kill(os.getpid(), signal.SIGKILL)
    y.sum().backward()


def killed_watched(net: Net, rank: int, bad: bool) -> None:
    with bn.sync_debug(WAIT):
        killed(net, rank, bad)


def wrong_shape(net: Net, rank: int, bad: bool) -> None:
    net(torch.zeros(4, 5) if bad else batch(rank))


def bad_weight(net: Net, rank: int, bad: bool) -> None:
    x = batch(rank)
    net.first(x, sample_weight=torch.full((len(x),), -1.0 if bad else 1.0))


FAULTS = {
    f.__name__: f
    for f in (
        skip_last,
        skip_first,
        no_backward,
        watched,
        killed,
        killed_in_backward,
        killed_watched,
        wrong_shape,
        bad_weight,
    )
}
RECOVERS = ("watched", "wrong_shape", "bad_weight")
"""After these, the next call works."""
