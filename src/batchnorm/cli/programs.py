"""Files of `torch.export`: programs, which hold a network whole.

To load one is to trust it: `torch.export.load` unpickles what is no plain tensor, and evaluates
the expressions of its shapes as Python. So no program is loaded unless the user says that it is
his own.
"""

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from zipfile import BadZipFile

from ..errors import UsageError
from . import checkpoints

if TYPE_CHECKING:
    from torch import nn
    from torch.export import ExportedProgram

SUFFIX = ".pt2"

Arguments = tuple[tuple[Any, ...], Mapping[str, Any]]
"""Positional and keyword arguments of one call."""


class Saved(NamedTuple):
    """What a file had."""

    model: "nn.Module"
    example: Arguments | None
    """The arguments that it was exported with, if they were saved."""
    sizes: tuple[tuple[Any, ...], ...]
    """Shape of each tensor that it takes; a size that may vary is no int."""


def read(path: Path, option: str, trust: bool) -> Saved:
    """Load a program.

    Args:
        path: A file that `torch.export.save` has written.
        option: The option it came from, for messages: "--model".
        trust: Whether the user trusts whoever has written it.

    Raises:
        UsageError: There is no such file, it is not trusted, or it is something else.
    """
    import torch

    where = f"{option} {str(path)!r}"
    if not path.is_file():
        raise UsageError(f"{where}: there is no such file (looked in {Path.cwd()})")
    if not trust:
        raise UsageError(
            f"{where}: loading a program of torch.export can execute code that was put into the "
            f"file. If you trust whoever has written it, say so with --trust; else export the "
            f"network again from its code and a state_dict"
        )
    try:
        program = torch.export.load(path)
    except (OSError, RuntimeError, ValueError, KeyError, BadZipFile, pickle.PickleError) as error:
        raise UsageError(f"{where} cannot be read as a file of torch.export: {error}") from error
    return Saved(program.module(), program.example_inputs, _sizes(program))


def write(model: "nn.Module", example: Arguments, dynamic: Any, path: Path, option: str) -> None:
    """Export a model, and save the program, all of it or nothing.

    Args:
        model: In evaluation mode.
        example: What it is called with; the file has a copy.
        dynamic: For each tensor of the example, which axes may vary: True or False for each.
        path: The file.
        option: The option it came from, for messages: "--out".

    Raises:
        UsageError: The model cannot be exported, or the file not be written.
    """
    import torch

    args, kwargs = example = _owned(example)
    shapes = _shapes(example, dynamic)
    try:
        program = torch.export.export(model, args, dict(kwargs), dynamic_shapes=shapes)
    except Exception as error:  # those of the model, and many classes of torch's own
        raise UsageError(
            f"{option} {str(path)!r}: torch.export cannot export the folded model: "
            f"{type(error).__name__}: {error}\nA state_dict can be written all the same: choose "
            f"a name that ends in .safetensors or .pt"
        ) from error
    checkpoints.replace(path, option, lambda temporary: torch.export.save(program, temporary))


def tensors_of(example: Arguments) -> list[Any]:
    """The tensors of a call, in the order in which a program takes them."""
    from torch import Tensor
    from torch.utils import _pytree as pytree

    leaves = pytree.tree_leaves((example[0], dict(example[1])))
    return [leaf for leaf in leaves if isinstance(leaf, Tensor)]


def _owned(example: Arguments) -> Arguments:
    """Copy the tensors: one that is a view of a data set would be saved with all of it."""
    from torch import Tensor
    from torch.utils import _pytree as pytree

    copies = {id(tensor): tensor.clone() for tensor in tensors_of(example)}

    def owned(leaf: Any) -> Any:
        return copies[id(leaf)] if isinstance(leaf, Tensor) else leaf

    args, kwargs = pytree.tree_map(owned, (example[0], dict(example[1])))
    return args, kwargs


def _shapes(example: Arguments, dynamic: Any) -> Any:
    from torch.export import Dim, ShapesCollection

    shapes = ShapesCollection()  # type: ignore[no-untyped-call]
    for tensor, axes in zip(tensors_of(example), dynamic, strict=True):
        chosen = {axis: Dim.DYNAMIC for axis, varies in enumerate(axes) if varies}
        if any(tensor.shape[axis] == 1 for axis in chosen):
            raise UsageError(
                f"an axis that may vary must have 2 or more places in the example, as torch.export "
                f"takes 1 for fixed; found {tuple(tensor.shape)}"
            )
        if chosen:
            shapes[tensor] = chosen
    return shapes


def _sizes(program: "ExportedProgram") -> tuple[tuple[Any, ...], ...]:
    wanted = set(program.graph_signature.user_inputs)
    values = [n.meta.get("val") for n in program.graph.nodes if n.op == "placeholder"]
    names = [n.name for n in program.graph.nodes if n.op == "placeholder"]
    pairs = zip(names, values, strict=True)
    return tuple(tuple(v.shape) for n, v in pairs if n in wanted and hasattr(v, "shape"))
