"""`batchnorm study`: train with and without batch normalization, and judge the five claims."""

from pathlib import Path
from typing import Annotated

import typer
from typer.core import TyperCommand

from ..errors import UsageError
from .stopping import STOPPED, terminated_like_ctrl_c


class Command(TyperCommand):
    """Lets `--lr 0.01 0.1 1` stand for `--lr 0.01 --lr 0.1 --lr 1`."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]
        """Repeat `--lr` before each of its values."""
        return super().parse_args(ctx, spread(args, "--lr"))


def spread(args: list[str], option: str) -> list[str]:
    """Repeat an option before every value that follows it.

    Example:
        >>> spread(["--lr", "0.1", "1", "--seeds", "6"], "--lr")
        ['--lr', '0.1', '--lr', '1', '--seeds', '6']
    """
    result: list[str] = []
    inside = False
    for argument in args:
        if argument.startswith("-") and not _is_number(argument):
            inside = argument == option
            result.append(argument)
        elif inside and result[-1] != option:
            result += [option, argument]
        else:
            result.append(argument)
    return result


def command(
    model: Annotated[
        str | None,
        typer.Option(
            metavar="FILE.py:NAME",
            help="Your network: make() or make(norm), where norm(num_features) makes the "
            "normalization layer, or nothing in the arm without. Default: a deep perceptron.",
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            metavar="FILE.py:NAME",
            help="Your data: data() returns the training and the test set, each a pair of "
            "tensors, a Dataset or a DataLoader. Default: scikit-learn's digits.",
        ),
    ] = None,
    lr: Annotated[
        list[str] | None,
        typer.Option(
            "--lr", metavar="RATE...", help="Learning rates to try, the same for every arm."
        ),
    ] = None,
    seeds: Annotated[
        int, typer.Option(help="Paired seeds; with fewer than 6 there is no verdict.")
    ] = 6,
    inputs: Annotated[
        str | None,
        typer.Option(
            metavar="standardize|minmax|raw",
            help="What is done to the inputs, fitted on training data. "
            "Default: standardize for digits, raw for your data.",
        ),
    ] = None,
    steps: Annotated[int, typer.Option(help="Training steps of one run.")] = 200,
    batch_size: Annotated[int, typer.Option(help="Samples per step.")] = 64,
    depth: Annotated[int, typer.Option(help="Hidden layers of the default network.")] = 6,
    width: Annotated[int, typer.Option(help="Units per hidden layer of the default network.")] = 64,
    out: Annotated[
        Path, typer.Option(help="Folder of the study; running again goes on with it.")
    ] = Path("results"),
    jobs: Annotated[
        int | None, typer.Option(help="Worker processes. Default: one per processor.")
    ] = None,
    cluster: Annotated[
        str | None,
        typer.Option(
            metavar="tcp://HOST:PORT",
            help="Run the trials on the workers of this Dask scheduler; needs batchnorm[cluster].",
        ),
    ] = None,
    shard: Annotated[
        str | None,
        typer.Option(
            metavar="I/N",
            help="Run one N-th of the trials, for job arrays that share the folder --out.",
        ),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Train with and without batch normalization, and judge its five classic claims.

    Example: batchnorm study --model net.py:make --data net.py:data --lr 0.01 0.1 1 --out results/
    """
    rates = tuple(_rate(text) for text in lr) if lr else None
    if jobs is not None and jobs < 1:
        raise UsageError(f"--jobs {jobs}: expected at least 1")
    from .. import study
    from ..report import write
    from .progress import shown
    from .verdicts import print_verdicts

    design = study.make_design(
        model=model,
        data=data,
        lrs=rates,
        seeds=seeds,
        inputs=inputs,
        steps=steps,
        batch_size=batch_size,
        depth=depth,
        width=width,
    )
    part = study.Shard.parse(shard) if shard else None
    with shown() as on_progress, terminated_like_ctrl_c():
        result = study.run(
            out, design, jobs=jobs, cluster=cluster, shard=part, on_progress=on_progress
        )
    if result.missing_shards:
        _print_missing(shard, result.missing_shards)
        return
    page = out / "report.html"
    with study.explained(f"--out {str(out)!r}"):
        write(result, page)
    print_verdicts(result, page, as_json=json)
    if result.partial:
        raise typer.Exit(STOPPED)


def _print_missing(shard: str | None, missing: tuple[str, ...]) -> None:
    shards = ", ".join(missing)
    typer.echo(
        f"shard {shard}: its share is done. Trials of {shards} are missing, and nobody runs them; "
        "run those shards, then any shard again to go on from there.",
        err=True,
    )


def _rate(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise UsageError(f"--lr {text!r}: a learning rate must be a number above 0") from None


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
