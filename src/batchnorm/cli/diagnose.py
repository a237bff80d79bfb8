"""`batchnorm diagnose`: what is wrong with the batch normalization of a model."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import BatchNormError, UsageError
from ..loading import load
from . import checkpoints, models
from .stopping import STOPPED, terminated_like_ctrl_c

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer

    from ..diagnosis import Diagnosis

_INPUT, _OUTPUT = "What is diagnosed", "Output"


def command(
    model: Annotated[
        str,
        typer.Option(
            metavar="FILE.py:NAME",
            help="Your network: make() returns a torch module.",
            rich_help_panel=_INPUT,
        ),
    ],
    data: Annotated[
        str,
        typer.Option(
            metavar="FILE.py:NAME",
            help="Your training data: data() returns batches, such as a DataLoader: tensors, "
            "tuples whose first element is the input, or dictionaries of keyword arguments.",
            rich_help_panel=_INPUT,
        ),
    ],
    weights: Annotated[
        Path | None,
        typer.Option(
            help="Its state_dict: FILE.safetensors, or what torch.save has written.",
            rich_help_panel=_INPUT,
        ),
    ] = None,
    loss: Annotated[
        str | None,
        typer.Option(
            metavar="FILE.py:NAME",
            help="Your loss: loss(output, batch) returns one number in a tensor.",
            rich_help_panel=_INPUT,
        ),
    ] = None,
    forward: Annotated[
        str | None,
        typer.Option(
            metavar="FILE.py:NAME",
            help="How to run a batch: forward(model, batch) returns the output.",
            rich_help_panel=_INPUT,
        ),
    ] = None,
    optimizer: Annotated[
        str | None,
        typer.Option(
            metavar="FILE.py:NAME",
            help="Your optimizer: optimizer(model) returns it; only its settings are looked at.",
            rich_help_panel=_INPUT,
        ),
    ] = None,
    replica: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE",
            help="A state_dict of another replica of the training, to be compared; may be "
            "repeated.",
            rich_help_panel=_INPUT,
        ),
    ] = None,
    max_batches: Annotated[
        int,
        typer.Option(help="How many batches are run, and kept in memory.", rich_help_panel=_INPUT),
    ] = 32,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.json",
            help="Save the result. batchnorm report FILE.json draws its page again.",
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
    """Say what is wrong with the batch normalization of a model, and what to do.

    Runs a few batches as in training and as in inference. The exit code
    is 1 where a finding has severity error.

    Example: batchnorm diagnose --model net.py:make --data net.py:batches --weights in.pt
    """
    files = [path for path in (out, html) if path is not None]
    for path in files:
        _require_folder(path)
    try:
        with terminated_like_ctrl_c():
            state = None if weights is None else checkpoints.read(weights, "--weights")
            net = models.made(load(model, "--model"), model, state, weights)
            batches = models.batches_of(load(data, "--data"), data)
            options = _options(net, loss, forward, optimizer, replica or [])
            diagnosis = _diagnosed(net, batches, {**options, "max_batches": max_batches})
            _write(diagnosis, out, html)
    except KeyboardInterrupt:
        typer.echo("batchnorm: stopped; nothing was written", err=True)
        raise typer.Exit(STOPPED) from None
    from .findings import print_diagnosis

    print_diagnosis(diagnosis.result, files, as_json=json)
    if any(finding.severity == "error" for finding in diagnosis.findings):
        raise typer.Exit(1)


def _options(
    net: "nn.Module",
    loss: str | None,
    forward: str | None,
    optimizer: str | None,
    replicas: list[Path],
) -> dict[str, Any]:
    return {
        "loss": None if loss is None else load(loss, "--loss"),
        "forward": None if forward is None else load(forward, "--forward"),
        "optimizer": None if optimizer is None else _optimizer(net, optimizer),
        "replicas": [checkpoints.read(path, "--replica") for path in replicas],
    }


def _optimizer(net: "nn.Module", spec: str) -> "Optimizer":
    from torch.optim import Optimizer

    make = load(spec, "--optimizer")
    made = models.called(lambda: make(net), f"--optimizer {spec!r}")
    if not isinstance(made, Optimizer):
        raise UsageError(
            f"--optimizer {spec!r}: expected a torch.optim.Optimizer, found {type(made).__name__}"
        )
    return made


def _diagnosed(net: "nn.Module", batches: Any, options: dict[str, Any]) -> "Diagnosis":
    from ..diagnosis import diagnose

    try:
        return diagnose(net, batches, **options)
    except BatchNormError as error:
        raise UsageError(str(error)) from error
    except Exception as error:
        raise UsageError(
            f"running the model on the data raised {type(error).__name__}: {error}"
        ) from error


def _require_folder(path: Path) -> None:
    if path.is_dir() or not path.parent.is_dir():
        found = "a folder" if path.is_dir() else f"no folder {str(path.parent)!r}"
        raise UsageError(f"{str(path)!r}: expected a file in a folder that is there, found {found}")


def _write(diagnosis: "Diagnosis", out: Path | None, html: Path | None) -> None:
    for path, write in ((out, diagnosis.to_json), (html, diagnosis.to_html)):
        if path is None:
            continue
        try:
            write(path)
        except OSError as error:
            raise UsageError(f"{str(path)!r} cannot be written: {error.strerror}") from error
