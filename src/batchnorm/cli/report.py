"""`batchnorm report`: draw the page of what was saved again; needs neither torch nor the data."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from ..errors import UsageError

T = TypeVar("T")


def command(
    saved: Annotated[
        Path,
        typer.Argument(
            metavar="FOLDER|FILE.json",
            help="Folder of a study, with its results.json; or what batchnorm bench --out wrote.",
        ),
    ],
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Rebuild the page of a study or a benchmark from what it saved, byte for byte the same.

    The page of a study is report.html in its folder, that of a benchmark FILE.html.
    """
    if saved.suffix == ".json" and not saved.is_dir():
        _bench(saved, as_json=json)
    else:
        _study(saved, as_json=json)


def _study(folder: Path, *, as_json: bool) -> None:
    from ..records import StudyResult
    from ..report import write
    from .verdicts import print_verdicts

    if not (folder / "results.json").exists():
        raise UsageError(
            f"{str(folder)!r} has no results.json; expected the folder of a finished study, "
            f"as made by: batchnorm study --out {folder}"
        )
    page = folder / "report.html"
    result = _read(StudyResult, folder / "results.json", "study")
    _write(write, result, page)
    print_verdicts(result, page, as_json=as_json)


def _bench(saved: Path, *, as_json: bool) -> None:
    from ..records import BenchResult
    from ..report import write_bench
    from .speeds import print_speeds

    if not saved.exists():
        raise UsageError(
            f"there is no file {str(saved)!r}; expected what a benchmark saved, "
            f"as made by: batchnorm bench --out {saved}"
        )
    page = saved.with_suffix(".html")
    result = _read(BenchResult, saved, "benchmark")
    _write(write_bench, result, page)
    print_speeds(result, [page], as_json=as_json)


def _read(kind: type[T], path: Path, what: str) -> T:
    from ..records import from_json

    try:
        return from_json(kind, path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise UsageError(f"{str(path)!r} is not the result of a {what}: {error}") from error


def _write(write: Callable[[T, Path], None], result: T, page: Path) -> None:
    try:
        write(result, page)
    except OSError as error:
        raise UsageError(f"{str(page)!r} cannot be written: {error.strerror}") from error
