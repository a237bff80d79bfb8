"""What a reader can take away from the page, each as a link that holds the file itself."""

import base64
import csv
import dataclasses
import gzip
import io
from collections.abc import Iterable

from ..records import BenchResult, DiagnosisResult, Run, StudyResult, to_json

_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n")


def runs_csv(runs: Iterable[Run]) -> str:
    """Write the raw table as CSV; text that a spreadsheet would compute is quoted by an apostrophe.

    Example:
        >>> runs_csv([]).split(",")[:3]
        ['stage', 'activation', 'arm']
    """
    names = [field.name for field in dataclasses.fields(Run)]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\r\n")
    writer.writerow(names)
    for run in runs:
        writer.writerow([_cell(getattr(run, name)) for name in names])
    return text.getvalue()


def csv_uri(runs: Iterable[Run]) -> str:
    """Put the raw table into a link."""
    return _uri("text/csv;charset=utf-8", runs_csv(runs).encode())


def results_uri(result: StudyResult | BenchResult | DiagnosisResult) -> str:
    """Put the whole result, compressed, into a link: its JSON alone can be larger than the page."""
    packed = gzip.compress(to_json(result).encode(), compresslevel=9, mtime=0)
    return _uri("application/gzip", packed)


def _uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"


def _cell(value: object) -> object:
    if isinstance(value, str) and value.startswith(_FORMULA_STARTS):
        return f"'{value}"
    return value
