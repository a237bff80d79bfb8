"""Several processes that are each other's replicas, over gloo on this machine.

Processes cost seconds, so many cases go through one group of them. What goes wrong in one of them
is what the test reports, and none of them outlives it.
"""

import contextlib
import faulthandler
import multiprocessing
import os
import time
import traceback
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed as dist

SECONDS = 60
"""How long a collective may take."""
DEADLINE = 150
"""How long a group may take."""
GRACE = 5
"""How long the others may go on when one has failed."""

Job = Callable[[int, int, Any], Any]
"""(rank, world, case) -> anything that can be pickled"""

needs_gloo = pytest.mark.skipif(
    not (dist.is_available() and dist.is_gloo_available()),
    reason="needs torch.distributed with gloo",
)


def run(
    world: int,
    job: Job,
    cases: Sequence[Any],
    folder: Path,
    may_die: Sequence[int] = (),
    seconds: float = SECONDS,
    deadline: float = DEADLINE,
) -> list[list[Any]]:
    """Let every replica do a job for every case; give what each has returned, by rank.

    An exception of the job is returned in the place of its result. A replica that ends otherwise
    fails the test, unless it may die: it then has returned nothing.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "batchnorm.nn", "batchnorm.functional"])
    arguments = (world, job, list(cases), folder, seconds, deadline)
    processes = [
        context.Process(target=_work, args=(rank, *arguments), daemon=True) for rank in range(world)
    ]
    try:
        for process in processes:
            process.start()
        _wait(processes, may_die, deadline)
    finally:
        for process in processes:
            if process.is_alive():
                process.kill()
            process.join()
    problems = {
        rank: _said(folder, rank, process.exitcode)
        for rank, process in enumerate(processes)
        if process.exitcode and rank not in may_die
    }
    assert not problems, "\n".join(f"replica {r}: {text}" for r, text in problems.items())
    return [_results(folder, rank) for rank in range(world)]


class Worlds:
    """What replicas have done, by world size; they are started when somebody asks."""

    def __init__(
        self, job: Job, cases: Sequence[Any], folders: Any, deadline: float = DEADLINE
    ) -> None:
        self.job, self.cases, self.folders = job, cases, folders
        self.deadline = deadline
        self.found: dict[int, Any] = {}

    def __call__(self, world: int) -> list[list[Any]]:
        if world not in self.found:
            try:
                folder = self.folders.mktemp(f"world{world}")
                self.found[world] = run(world, self.job, self.cases, folder, deadline=self.deadline)
            except AssertionError as error:  # once is enough
                self.found[world] = error
        if isinstance(self.found[world], AssertionError):
            raise self.found[world]
        return self.found[world]

    def results(self, world: int, index: int) -> list[Any]:
        """Of one case, by rank; raises what a replica has raised."""
        found = [of_rank[index] for of_rank in self(world)]
        for result in found:
            if isinstance(result, Exception):
                raise result
        return found


def _wait(processes: list[Any], may_die: Sequence[int], deadline: float) -> None:
    end = time.monotonic() + deadline
    while any(process.is_alive() for process in processes) and time.monotonic() < end:
        failed = any(p.exitcode for r, p in enumerate(processes) if r not in may_die)
        if failed:
            end = min(end, time.monotonic() + GRACE)
        time.sleep(0.02)


def _said(folder: Path, rank: int, code: int | None) -> str:
    paths = (folder / f"{rank}.error", folder / f"{rank}.hung")
    said = [path.read_text() for path in paths if path.exists()]
    return f"ended with exit code {code}\n" + "\n".join(said)


def _results(folder: Path, rank: int) -> list[Any]:
    path = folder / f"{rank}.pt"
    return torch.load(path, weights_only=False) if path.exists() else []


def _work(
    rank: int,
    world: int,
    job: Job,
    cases: list[Any],
    folder: Path,
    seconds: float,
    deadline: float,
) -> None:
    torch.set_num_threads(1)
    # Where a replica hangs is in the report as well.
    hung = (folder / f"{rank}.hung").open("w")
    faulthandler.dump_traceback_later(deadline - 2 * GRACE, file=hung)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    try:
        dist.init_process_group(
            "gloo",
            f"file://{folder / 'meeting'}",
            timedelta(seconds=seconds),
            rank=rank,
            world_size=world,
        )
        found = []
        for case in cases:
            try:
                found.append(job(rank, world, case))
            except Exception as error:
                found.append(error)
        torch.save(found, folder / f"{rank}.part")
        (folder / f"{rank}.part").rename(folder / f"{rank}.pt")
        with contextlib.suppress(RuntimeError):  # what went wrong is among the results
            dist.barrier()
        dist.destroy_process_group()
    except BaseException:
        (folder / f"{rank}.error").write_text(traceback.format_exc())
        raise SystemExit(1) from None
