"""Files with a state_dict, read and written by the commands that change a model.

Nothing in a file is executed: PyTorch's are read with `weights_only`, and a pickle that needs more
is refused. What is there is not overwritten unless that was asked for.
"""

import os
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import MissingExtraError, UsageError

if TYPE_CHECKING:
    from torch import Tensor

SAFE = ".safetensors"


def read(path: Path, option: str) -> dict[str, "Tensor"]:
    """Read names and tensors.

    Args:
        path: A file of safetensors, if it is called so, else one that `torch.save` has written.
        option: The option it came from, for messages: "--weights".

    Raises:
        UsageError: There is no such file, or it holds something else.
        MissingExtraError: safetensors is not installed.
    """
    where = f"{option} {str(path)!r}"
    if not path.is_file():
        raise UsageError(f"{where}: there is no such file (looked in {Path.cwd()})")
    found = _read_safe(path, where) if path.suffix == SAFE else _read_torch(path, where)
    _check(found, where)
    return found  # type: ignore[no-any-return]


def refuse_overwriting(path: Path, force: bool, option: str) -> None:
    """Refuse a file that is there already, or a folder that is not.

    Raises:
        UsageError: The file is there, and `force` is not set; or it can never be written.
    """
    where = f"{option} {str(path)!r}"
    if path.is_dir() or not path.parent.is_dir():
        found = "a folder" if path.is_dir() else f"no folder {str(path.parent)!r}"
        raise UsageError(f"{where}: expected a file in a folder that is there, found {found}")
    if path.exists() and not force:
        raise UsageError(
            f"{where} is there already; choose another name, or overwrite with --force"
        )


def write(state: Mapping[str, "Tensor"], path: Path, option: str) -> None:
    """Write names and tensors in the format of the file's name, all of it or nothing.

    Raises:
        UsageError: The file cannot be written.
        MissingExtraError: safetensors is not installed.
    """
    import torch

    save: Callable[[Any, str], object] = torch.save
    if path.suffix == SAFE:
        save = _safetensors().save_file
        state = {name: tensor.contiguous() for name, tensor in state.items()}
    replace(path, option, lambda temporary: save(state, str(temporary)))


def replace(path: Path, option: str, save: Callable[[Path], object]) -> None:
    """Write a file under a temporary name, then rename it: nobody ever sees half of it.

    Args:
        path: The file.
        option: The option it came from, for messages: "--out".
        save: Writes a file; the name that it is given ends as that of the file does.

    Raises:
        UsageError: The file cannot be written.
    """
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.tmp{path.suffix}")
    try:
        save(temporary)
        temporary.replace(path)
    except (OSError, RuntimeError) as error:  # RuntimeError: how torch says that a disk is full
        raise UsageError(f"{option} {str(path)!r} cannot be written: {error}") from error
    finally:
        temporary.unlink(missing_ok=True)


def _read_torch(path: Path, where: str) -> Any:
    import torch

    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = str(error).splitlines()[0]
        raise UsageError(
            f"{where} is not a file of tensors alone, and nothing else in a file is executed "
            f"({reason}); save only the state_dict, as in torch.save(model.state_dict(), ...)"
        ) from error
    except (OSError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise UsageError(f"{where} cannot be read as a file of torch.save: {error}") from error


def _read_safe(path: Path, where: str) -> Any:
    load = _safetensors().load_file
    try:
        return load(str(path))
    except Exception as error:  # its errors are of a class of its own
        raise UsageError(f"{where} cannot be read as a file of safetensors: {error}") from error


def _safetensors() -> Any:
    try:
        import safetensors.torch
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            "files of safetensors need safetensors, which is not installed: pip install safetensors"
        ) from error
    return safetensors.torch


def _check(found: Any, where: str) -> None:
    from torch import Tensor

    if isinstance(found, dict) and all(isinstance(value, Tensor) for value in found.values()):
        return
    kind = type(found).__name__
    if isinstance(found, dict):
        kind = f"a dictionary of {', '.join(map(repr, list(found)[:5]))}"
    raise UsageError(
        f"{where}: expected a state_dict, that is names and tensors; found {kind}. Save the "
        f"state_dict in a file of its own"
    )
