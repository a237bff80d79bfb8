"""`batchnorm bench`: how fast, against PyTorch, oneDNN and a copy, and how exact."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ..errors import UsageError
from .stopping import STOPPED, terminated_like_ctrl_c

if TYPE_CHECKING:
    from ..bench import Plan
    from ..bench import Progress as BenchProgress
    from ..records import BenchResult

_WHAT, _HOW, _OUTPUT = "What is measured", "How", "Output"


def command(
    shape: Annotated[
        list[str] | None,
        typer.Option(
            metavar="N,C,...",
            help="Shape of an input, such as 32,64,56,56 or 8192,256; may be repeated. "
            "Default: ResNet-50 at batch 32 (on a GPU 256), large planes as in a U-Net, and "
            "perceptrons.",
            rich_help_panel=_WHAT,
        ),
    ] = None,
    operation: Annotated[
        list[str] | None,
        typer.Option(
            metavar="bn|bn+relu|bn+add+relu|inference",
            help="May be repeated; inference is that of BN+ReLU. Default: all.",
            rich_help_panel=_WHAT,
        ),
    ] = None,
    layout: Annotated[
        list[str] | None,
        typer.Option(
            metavar="contiguous|channels-last", help="Default: both.", rich_help_panel=_WHAT
        ),
    ] = None,
    dtype: Annotated[
        list[str] | None,
        typer.Option(
            metavar="float32|bfloat16|float16",
            help="May be repeated; float16 on a GPU. Default: float32.",
            rich_help_panel=_WHAT,
        ),
    ] = None,
    device: Annotated[
        str,
        typer.Option(
            metavar="cpu|cuda|cuda:N", help="A GPU is one by NVIDIA.", rich_help_panel=_WHAT
        ),
    ] = "cpu",
    compile: Annotated[
        bool,
        typer.Option(
            "--compile",
            help="Measure torch.compile as well; it compiles anew for every shape, so this "
            "takes much longer.",
            rich_help_panel=_WHAT,
        ),
    ] = False,
    threads: Annotated[
        int | None,
        typer.Option(help="Threads, for everyone. Default: PyTorch's.", rich_help_panel=_HOW),
    ] = None,
    time: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS",
            help="Measuring time of one cell (a shape, a layout and an operation), shared by all "
            "that are measured there. Default: 2.",
            rich_help_panel=_HOW,
        ),
    ] = None,
    quick: Annotated[
        bool,
        typer.Option(
            "--quick",
            help="Three small shapes, 0.2 seconds a cell: a look, no measurement.",
            rich_help_panel=_HOW,
        ),
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.json",
            help="Save the result, anew after every cell. batchnorm report FILE.json draws its "
            "page again.",
            rich_help_panel=_OUTPUT,
        ),
    ] = None,
    html: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.html", help="Write a page with charts.", rich_help_panel=_OUTPUT
        ),
    ] = None,
    json: Annotated[
        bool, typer.Option("--json", help="Print the result as JSON.", rich_help_panel=_OUTPUT)
    ] = False,
) -> None:
    """Time our layers beside PyTorch's, oneDNN's, and a copy of the tensor.

    All run in this process, in turns. Beside every time stand its spread,
    how many times over the least possible memory traffic it is, and the
    error against float64. Close other programs first: the result says
    which share of the processors they used. Ctrl-C ends it, and what has
    been measured so far is shown and saved. On a GPU, its own events take
    the time, inputs are not in its cache, and PyTorch's layers are served
    by cuDNN where PyTorch chooses it.

    Examples: batchnorm bench --shape 32,64,56,56 --html bench.html;
    batchnorm bench --device cuda --dtype bfloat16 --compile
    """
    from ..bench import make_plan

    plan = make_plan(
        shapes=shape,
        layouts=layout,
        dtypes=dtype,
        operations=operation,
        threads=threads,
        device=device,
        compile=compile,
        seconds=time,
        quick=quick,
    )
    for option, file in (("--out", out), ("--html", html)):
        _check_file(option, file)
    result = _measure(plan, out)
    if result.timings:
        _show(result, out, html, as_json=json)
    else:
        Console(stderr=True).print("stopped before the first cell was measured; nothing is saved")
    if result.partial:
        raise typer.Exit(STOPPED)


def _measure(plan: "Plan", out: Path | None) -> "BenchResult":
    from ..bench import run

    with _shown() as on_progress, terminated_like_ctrl_c(), _written("--out", out):
        return run(plan, out, on_progress=on_progress)


def _show(result: "BenchResult", out: Path | None, html: Path | None, *, as_json: bool) -> None:
    from ..report import write_bench
    from .speeds import print_speeds

    if html is not None:
        with _written("--html", html):
            write_bench(result, html)
    print_speeds(result, [file for file in (out, html) if file is not None], as_json=as_json)


def _check_file(option: str, file: Path | None) -> None:
    """Refuse before measuring what could not be saved after it."""
    if file is None:
        return
    if file.is_dir() or not file.parent.is_dir():
        found = "a folder" if file.is_dir() else f"no folder {str(file.parent)!r}"
        raise UsageError(f"{option} {str(file)!r}: expected the name of a file, found {found}")
    suffix = {"--out": ".json", "--html": ".html"}[option]
    if file.suffix != suffix:
        raise UsageError(f"{option} {str(file)!r}: expected a name that ends in {suffix}")


@contextmanager
def _written(option: str, file: Path | None) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UsageError(f"{option} {str(file)!r}: {error.strerror or error}") from error


@contextmanager
def _shown() -> Iterator[Callable[["BenchProgress"], None]]:
    """Show progress on stderr: a bar in a terminal, a line per cell elsewhere."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda progress: console.print(_line(progress), highlight=False, soft_wrap=True)
        return
    columns = BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, TextColumn("{task.description}"), console=console) as bar:
        task = bar.add_task("", total=None)
        yield lambda progress: bar.update(
            task, total=progress.total, completed=progress.done, description=_line(progress)
        )


def _line(progress: "BenchProgress") -> str:
    from ..report import speeds

    if progress.case is None:
        return f"{progress.total} cells"
    ours = [row for row in progress.rows if row.variant == "ours"]
    found = ours[-1]
    return (
        f"{progress.done} of {progress.total}: {progress.case}: ours "
        f"{speeds.milliseconds(found)} ms, {speeds.times(found.over_eager)} as fast as eager"
    )
