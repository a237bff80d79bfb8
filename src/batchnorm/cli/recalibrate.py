"""`batchnorm recalibrate`: measure the running statistics of a saved model anew."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import BatchNormError, CommandError, UsageError
from ..loading import load
from . import checkpoints, models
from .stopping import STOPPED, terminated_like_ctrl_c

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ..surgery import Recalibration


def command(
    model: Annotated[
        str,
        typer.Option(metavar="FILE.py:NAME", help="Your network: make() returns a torch module."),
    ],
    data: Annotated[
        str,
        typer.Option(
            metavar="FILE.py:NAME",
            help="Your data: data() returns batches, such as a DataLoader: tensors, tuples whose "
            "first element is the input, or dictionaries of keyword arguments.",
        ),
    ],
    weights: Annotated[
        Path,
        typer.Option(help="Its state_dict: FILE.safetensors, or what torch.save has written."),
    ],
    out: Annotated[
        Path, typer.Option(help="Where the state_dict with the new statistics is written.")
    ],
    forward: Annotated[
        str | None,
        typer.Option(metavar="FILE.py:NAME", help="How to run a batch: forward(model, batch)."),
    ] = None,
    passes: Annotated[
        int, typer.Option(help="Times to go through the data; 0 for once per layer.")
    ] = 1,
    tolerance: Annotated[
        float | None,
        typer.Option(help="Stop when nothing moves by so many standard deviations any more."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite what is there.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Measure the running statistics of a saved model anew, over all of your data.

    Example: batchnorm recalibrate --model net.py:make --data net.py:batches --weights in.pt
    --out out.pt
    """
    checkpoints.refuse_overwriting(out, force, "--out")
    make, batches = load(model, "--model"), load(data, "--data")
    run = None if forward is None else load(forward, "--forward")
    state = checkpoints.read(weights, "--weights")
    try:
        with terminated_like_ctrl_c():
            net = models.made(make, model, state, weights)
            result = _recalibrated(net, batches, data, run, passes or None, tolerance)
            _update(state, net, result)
            checkpoints.write(state, out, "--out")
    except KeyboardInterrupt:
        typer.echo("batchnorm: stopped; nothing was written", err=True)
        raise typer.Exit(STOPPED) from None
    from ..records import to_json

    typer.echo(to_json(result) if json else f"{result}\nwritten: {out}")


def _recalibrated(
    net: "nn.Module",
    data: Callable[..., Any],
    spec: str,
    forward: Callable[..., Any] | None,
    passes: int | None,
    tolerance: float | None,
) -> "Recalibration":
    from ..surgery import recalibrate

    batches = models.batches_of(data, spec)
    try:
        result = recalibrate(net, batches, forward, passes=passes, tolerance=tolerance)
    except BatchNormError as error:
        raise UsageError(str(error)) from error
    except Exception as error:
        raise UsageError(
            f"running the model on the data raised {type(error).__name__}: {error}"
        ) from error
    if all(layer.left for layer in result.layers):
        raise CommandError(f"there was nothing to recalibrate, and nothing was written\n{result}")
    return result


def _update(state: dict[str, "Tensor"], net: "nn.Module", result: "Recalibration") -> None:
    """Put new statistics where the file has old ones, in its dtypes; all else stays as it was."""
    new = net.state_dict()
    for layer in result.layers:
        for name in ("running_mean", "running_var", "num_batches_tracked"):
            key = f"{layer.name}.{name}" if layer.name else name
            if layer.left is None and key in state:
                state[key] = new[key].to(state[key].dtype)
