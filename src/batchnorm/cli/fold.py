"""`batchnorm fold`: a saved model without its batch normalization, for inference."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import BatchNormError, CommandError, UsageError
from ..loading import load
from . import checkpoints, models, programs
from .stopping import STOPPED, terminated_like_ctrl_c

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ..surgery import Changes


def command(
    model: Annotated[
        str,
        typer.Option(
            metavar="FILE.py:NAME",
            help="Your network: make() returns a torch module; or FILE.pt2 of torch.export.",
        ),
    ],
    weights: Annotated[
        Path | None,
        typer.Option(
            help="Its state_dict: FILE.safetensors, or what torch.save has written. Without it, "
            "the network is taken as it was made."
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Where the result is written: FILE.safetensors or FILE.pt for its state_dict, "
            "FILE.pt2 for a program of torch.export, which needs no Python code of yours."
        ),
    ] = None,
    example: Annotated[
        list[str] | None,
        typer.Option(
            metavar="1x3x224x224",
            help="Shape of the input that the network is run on; again for a second input.",
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            metavar="FILE.py:NAME",
            help="Or your data: the first of the batches that data() returns is the input.",
        ),
    ] = None,
    dynamic_batch: Annotated[
        bool,
        typer.Option(
            "--dynamic-batch", help="With FILE.pt2: axis 0 of every input may have any size."
        ),
    ] = False,
    trust: Annotated[
        bool,
        typer.Option("--trust", help="Load --model FILE.pt2, which can execute code in the file."),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would be done.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Overwrite what is there.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Take batch normalization out of a saved model, into the layers beside it, for inference.

    Example: batchnorm fold --model net.py:make --weights in.pt --example 1x3x224x224 --out out.pt
    """
    _check(out, example, data, dynamic_batch, dry_run, force)
    try:
        with terminated_like_ctrl_c():
            net, saved = _network(model, weights, trust)
            arguments = _arguments(net, example, data, saved)
            folded, changes = _folded(net, arguments, dry_run)
            done = any(change.action != "leave alone" for change in changes)
            if done and out is not None and not dry_run:
                _write(folded, arguments, saved, dynamic_batch, out)
    except KeyboardInterrupt:
        typer.echo("batchnorm: stopped; nothing was written", err=True)
        raise typer.Exit(STOPPED) from None
    from ..records import to_json
    from ..surgery.folding.summary import Folding

    result = Folding(tuple(changes), str(out) if done and not dry_run else None)
    typer.echo(to_json(result) if json else result)
    if not done:
        raise CommandError("there was nothing to fold")


def _check(
    out: Path | None,
    example: list[str] | None,
    data: str | None,
    dynamic_batch: bool,
    dry_run: bool,
    force: bool,
) -> None:
    if out is None and not dry_run:
        raise UsageError("expected --out FILE for the result, or --dry-run; found neither")
    if example and data:
        raise UsageError("expected --example or --data, found both: one input is enough")
    if dynamic_batch and (out is None or out.suffix != programs.SUFFIX):
        raise UsageError("--dynamic-batch is for programs: expected --out FILE.pt2")
    if out is not None and not dry_run:
        checkpoints.refuse_overwriting(out, force, "--out")


def _network(
    model: str, weights: Path | None, trust: bool
) -> tuple["nn.Module", programs.Saved | None]:
    if not model.endswith(programs.SUFFIX):
        make = load(model, "--model")
        state = None if weights is None else checkpoints.read(weights, "--weights")
        return models.made(make, model, state, weights), None
    if weights is not None:
        raise UsageError(f"--weights is of no use with --model {model!r}, which has its own")
    saved = programs.read(Path(model), "--model", trust)
    return saved.model, saved


def _arguments(
    net: "nn.Module", example: list[str] | None, data: str | None, saved: programs.Saved | None
) -> programs.Arguments:
    if data is not None:
        return _first(data)
    if example:
        return tuple(_random(net, shape) for shape in example), {}
    if saved is not None and saved.example is not None:
        return saved.example
    raise UsageError(
        "expected an input to run the network on: --example 1x3x224x224 for random numbers of "
        "that shape, or --data FILE.py:NAME"
    )


def _first(data: str) -> programs.Arguments:
    from ..surgery.recalibration.batches import arguments_of

    batches = models.batches_of(load(data, "--data"), data)
    try:
        return arguments_of(next(iter(batches)))
    except StopIteration:
        raise UsageError(f"--data {data!r}: expected at least one batch, found none") from None
    except Exception as error:
        raise UsageError(f"--data {data!r}: raised {type(error).__name__}: {error}") from error


def _random(net: "nn.Module", shape: str) -> "Tensor":
    import torch

    try:
        sizes = [int(size) for size in shape.split("x")]
    except ValueError:
        sizes = [0]
    if min(sizes) < 1:
        raise UsageError(f"--example {shape!r}: expected sizes such as 1x3x224x224")
    if math.prod(sizes) > 2**31:
        raise UsageError(f"--example {shape!r}: expected at most 2^31 numbers; one sample will do")
    dtypes = [p.dtype for p in net.parameters() if p.is_floating_point()]
    generator = torch.Generator().manual_seed(0)
    return torch.randn(sizes, generator=generator).to(dtypes[0] if dtypes else torch.float32)


def _folded(
    net: "nn.Module", arguments: programs.Arguments, dry_run: bool
) -> tuple["nn.Module", "Changes"]:
    from ..surgery import fold

    args, kwargs = arguments
    try:
        if dry_run:
            return net, fold(net, *args, example_kwargs=kwargs, dry_run=True)
        return fold(net, *args, example_kwargs=kwargs)
    except BatchNormError as error:
        raise UsageError(str(error)) from error


def _write(
    folded: "nn.Module",
    arguments: programs.Arguments,
    saved: programs.Saved | None,
    dynamic_batch: bool,
    out: Path,
) -> None:
    if out.suffix != programs.SUFFIX:
        checkpoints.write(folded.state_dict(), out, "--out")
        return
    shapes: list[Any] = [tuple(tensor.shape) for tensor in programs.tensors_of(arguments)]
    sizes = saved.sizes if saved is not None and len(saved.sizes) == len(shapes) else shapes
    dynamic = [
        [type(size) is not int or (dynamic_batch and axis == 0) for axis, size in enumerate(shape)]
        for shape in sizes
    ]
    programs.write(folded.eval(), arguments, dynamic, out, "--out")
