"""One short run on a GPU that says what the kernels are worth: `make gpu`.

    python benchmarks/gpu.py --minutes 9

First the results are compared with float64, and a step is captured in a CUDA graph. Then come the
layers of ResNet-50 in bfloat16, a training step of the network, and the same in float32, each
beside PyTorch eager and torch.compile; last, BN of small tensors. What does not fit the time is
left out, and said. The file in benchmarks/results/ is written anew after every cell.

`--rehearse` goes through all of it on the CPU, very small, and saves nothing in benchmarks/.
"""

import argparse
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from on_gpu import checks, networks, targets
from on_gpu.jobs import CELL, CHECK, NETWORK, Done, Job, work_off

from batchnorm.bench import Plan, recording
from batchnorm.bench.case import CHANNELS_LAST, CONTIGUOUS, Case, Shape
from batchnorm.bench.cell import measure
from batchnorm.bench.devices import Device, find
from batchnorm.bench.grid import resnet50
from batchnorm.cli.speeds import print_speeds
from batchnorm.errors import CommandError, UsageError
from batchnorm.records import BenchResult

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"

SMALL: tuple[Shape, ...] = ((64, 100), (256, 512), (8, 64, 14, 14), (32, 512, 7, 7))
"""The host may take longer than the GPU here: they show from which size on our kernels pay."""


@dataclass(frozen=True)
class Run:
    """What one run is to measure."""

    plan: Plan
    size: networks.Size
    out: Path
    seconds: float
    """For everything."""
    network_seconds: float


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure; 0 fine, 1 a check or a cell failed, 2 wrong usage, 3 no GPU."""
    options = _options(arguments)
    if options.rehearse:
        return carry_out(rehearsal())
    try:
        device = find_gpu(options.device)
    except CommandError as error:
        print(f"gpu.py: {error}", file=sys.stderr)
        return error.exit_code
    torch.backends.cudnn.benchmark = True  # everyone's convolutions are the fastest ones
    return carry_out(full(device, options))


def find_gpu(name: str) -> Device:
    """Give the GPU of that name.

    Raises:
        UsageError: It is no name of a GPU.
        DeviceError: There is none.
    """
    device = find(name)
    if device.place.type != "cuda":
        raise UsageError(f"--device {name}: expected cuda or cuda:N; on the CPU, --rehearse")
    return device


def full(device: Device, options: argparse.Namespace) -> Run:
    """Everything, on a GPU."""
    plan = Plan(
        device=device,
        shapes=resnet50(options.batch),
        layouts=(CHANNELS_LAST, CONTIGUOUS),
        dtypes=("bfloat16", "float32"),
        operations=targets.OPERATIONS,
        compile=not options.no_compile,
        seconds=0.5,
    )
    out = options.out / f"gpu-{slug(plan.device.facts()['GPU'])}.json"
    return Run(plan, networks.Size(options.batch), out, 60 * options.minutes, 8.0)


def rehearsal() -> Run:
    """The same on the CPU, so small that it only shows whether everything works."""
    plan = Plan(
        device=find("cpu"),
        shapes=((4, 20, 5, 5),),
        layouts=(CHANNELS_LAST, CONTIGUOUS),
        dtypes=("bfloat16", "float32"),
        operations=targets.OPERATIONS,
        seconds=1e-3,
    )
    out = ROOT / "build" / "rehearsal"
    return Run(plan, networks.Size(4, 32, 8), out / "gpu-rehearsal.json", 300, 1e-3)


def jobs(run: Run) -> Iterator[Job]:
    """Give what is to be done, the most important first."""
    device = run.plan.device
    yield Job(CHECK, "results", lambda: Done(said={"results": checks.parity(device)}))
    if device.place.type == "cuda":
        yield Job(CHECK, "CUDA graph", lambda: Done(said={"CUDA graph": checks.graph(device)}))
    for dtype in run.plan.dtypes:
        for case in run.plan.cases():
            if case.dtype == dtype:
                yield _cell(run.plan, case)
        yield Job(NETWORK, f"ResNet-50 {dtype}", lambda dtype=dtype: _network(run, dtype))
    small = replace(run.plan, shapes=SMALL, operations=("bn",), compile=False)
    yield from (_cell(small, case) for case in small.cases())


def _cell(plan: Plan, case: Case) -> Job:
    return Job(
        CELL, str(case), lambda: Done(measure(case, plan.device, plan.seconds, plan.compile))
    )


def _network(run: Run, dtype: str) -> Done:
    plan = run.plan
    rows, losses = networks.training_steps(
        plan.device, dtype, run.size, run.network_seconds, plan.compile
    )
    return Done(rows, {f"first losses, {dtype}": losses})


def carry_out(run: Run) -> int:
    """Do what there is time for, save it, and print it."""
    run.out.parent.mkdir(parents=True, exist_ok=True)
    failed, left_out = [], []
    with recording(run.plan, run.out) as record:
        for outcome in work_off(jobs(run), run.seconds):
            name = outcome.job.name
            if outcome.done is not None:
                record.add(outcome.done.rows, said=outcome.done.said, is_last=False)
            elif outcome.error:
                failed.append(name)
                record.add([], said={f"FAILED: {name}": outcome.error}, is_last=False)
            else:
                left_out.append(name)
            print(_line(name, outcome.left_out, outcome.error), file=sys.stderr, flush=True)
        said = {"left out for want of time": ", ".join(left_out)} if left_out else {}
        record.add([], said=said, is_last=not (left_out or failed))
    _show(record.result, run.out)
    return 1 if failed else 0


def slug(card: str) -> str:
    """Make part of a file's name of that of a card.

    Example:
        >>> slug("NVIDIA H200")
        'nvidia-h200'
    """
    return re.sub(r"[^a-z0-9]+", "-", card.lower()).strip("-")


def _line(name: str, left_out: bool, error: str) -> str:
    return f"{name}: {'left out' if left_out else f'FAILED: {error}' if error else 'done'}"


def _show(result: BenchResult, file: Path) -> None:
    print_speeds(result, [file], as_json=False)
    for name in ("results", "CUDA graph", *(n for n in result.settings if "FAILED" in n)):
        print(f"{name}: {result.settings.get(name, 'not checked')}")
    for target in targets.targets(result):
        print(" | ".join(targets.cells(target)))


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=9.0, help="time for everything")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--device", default="cuda", help="cuda or cuda:N")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the rows")
    parser.add_argument("--no-compile", action="store_true", help="leave out torch.compile")
    parser.add_argument("--rehearse", action="store_true", help="on the CPU, very small")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
