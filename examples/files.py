"""A file is written under another name first and then renamed: nobody ever reads half of one."""

import os
from collections.abc import Callable
from pathlib import Path


def write(path: Path, save: Callable[[Path], object]) -> None:
    """Write a file, all of it or nothing.

    Args:
        path: Its name.
        save: Writes it; the name that it is given ends as the file's does.
    """
    temporary = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        save(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
