"""`batchnorm report`: draw the page of what was saved again; needs neither torch nor the data."""

import json
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
            help="Folder of a study, with its results.json; or what batchnorm bench --out or "
            "batchnorm diagnose --out wrote.",
        ),
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Rebuild a page from what was saved, byte for byte the same.

    The page of a study is report.html in its folder, that of a benchmark or a diagnosis FILE.html.
    """
    if saved.suffix == ".json" and not saved.is_dir():
        _require(saved)
        (_diagnosis if _is_diagnosis(saved) else _bench)(saved, as_json=as_json)
    else:
        _study(saved, as_json=as_json)


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

    page = saved.with_suffix(".html")
    result = _read(BenchResult, saved, "benchmark")
    _write(write_bench, result, page)
    print_speeds(result, [page], as_json=as_json)


def _diagnosis(saved: Path, *, as_json: bool) -> None:
    from ..records import DiagnosisResult
    from ..report import write_diagnosis
    from .findings import print_diagnosis

    page = saved.with_suffix(".html")
    result = _read(DiagnosisResult, saved, "diagnosis")
    _write(write_diagnosis, result, page)
    print_diagnosis(result, [page], as_json=as_json)


def _require(saved: Path) -> None:
    if not saved.exists():
        raise UsageError(
            f"there is no file {str(saved)!r}; expected what a benchmark or a diagnosis saved, "
            f"as made by: batchnorm bench --out {saved}"
        )


def _is_diagnosis(saved: Path) -> bool:
    try:
        found = json.loads(saved.read_text(encoding="utf-8"))
    except (ValueError, OSError):
        return False  # reading it once more says what is wrong
    return isinstance(found, dict) and "findings" in found


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
