"""For all tests, the examples in docs and docstrings among them."""

import doctest
import traceback
from types import SimpleNamespace
from typing import Any

import pytest


@pytest.fixture(autouse=True)
def _messages_alone(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let examples show the message of an error without its note.

    doctest compares the last note in place of the message before Python 3.13, and both since.
    """
    if isinstance(request.node, pytest.DoctestItem):
        seen = SimpleNamespace(**{**vars(traceback), "format_exception_only": _without_notes})
        monkeypatch.setattr(doctest, "traceback", seen)


def _without_notes(kind: type[BaseException], error: Any) -> list[str]:
    lines = traceback.format_exception_only(kind, error)
    return lines[: len(lines) - len(getattr(error, "__notes__", ()))]
