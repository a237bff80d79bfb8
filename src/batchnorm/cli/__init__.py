"""The command line; one file per command. `--help` must not import torch: it answers at once."""

import sys
from collections.abc import Sequence

import typer

from ..errors import BatchNormError, CommandError
from . import bench, diagnose, env, fold, recalibrate, report, study

app = typer.Typer(
    name="batchnorm",
    help="Batch normalization for PyTorch: does it keep its promises on your network?",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("study", cls=study.Command)(study.command)
app.command("diagnose")(diagnose.command)
app.command("recalibrate")(recalibrate.command)
app.command("fold")(fold.command)
app.command("bench")(bench.command)
app.command("report")(report.command)
app.command("env")(env.command)


def run(arguments: Sequence[str]) -> int:
    """Run one command.

    Args:
        arguments: Without the program's name.

    Returns:
        The exit code: 0 fine, 1 a finding or a failed check, 2 wrong usage, 3 something not
        installed, 130 stopped by Ctrl-C.
    """
    try:
        app(args=list(arguments), prog_name="batchnorm")
    except CommandError as error:
        print(f"batchnorm: {error}\nSee {_page(error)}", file=sys.stderr)
        return error.exit_code
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def _page(error: CommandError) -> str:
    """Where the documentation treats what the library refused, if that is why the command ends."""
    cause = error.__cause__
    return cause.page if isinstance(cause, BatchNormError) else error.page
