"""`batchnorm report`: draw the page of a saved study again; needs neither torch nor the data."""

from pathlib import Path
from typing import Annotated

import typer

from ..errors import UsageError


def command(
    folder: Annotated[Path, typer.Argument(help="Folder of a study, with its results.json.")],
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Rebuild report.html from the saved results of a study, byte for byte the same."""
    from ..records import StudyResult, from_json
    from ..report import write
    from .verdicts import print_verdicts

    saved, page = folder / "results.json", folder / "report.html"
    try:
        result = from_json(StudyResult, saved.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(
            f"{str(folder)!r} has no results.json; expected the folder of a finished study, "
            f"as made by: batchnorm study --out {folder}"
        ) from None
    except (ValueError, OSError) as error:
        raise UsageError(f"{str(saved)!r} is not the result of a study: {error}") from error
    try:
        write(result, page)
    except OSError as error:
        raise UsageError(f"{str(page)!r} cannot be written: {error.strerror}") from error
    print_verdicts(result, page, as_json=json)
