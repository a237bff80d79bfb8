"""The tree shows the architecture, and imports run one way through it."""

import ast
from pathlib import Path

import pytest

import batchnorm

SOURCE = Path(batchnorm.__file__).parent
FILES = sorted(SOURCE.rglob("*.py"))
IDS = [str(path.relative_to(SOURCE)) for path in FILES]

RANKS = [
    {"errors", "records", "shapes", "loading", "checks", "weights"},
    {"report"},
    {"moments", "reference"},
    {"ops"},
    {"compose", "distributed"},
    {"functional"},
    {"nn"},
    {"surgery", "port"},
    {"diagnosis"},
    {"bench", "study"},
    {"cli"},
    {"__init__", "__main__"},
]
RANK = {name: rank for rank, names in enumerate(RANKS) for name in names}

BASE = {"errors", "records", "shapes", "checks"}
"""Siblings of rank 0 may use the errors."""

LINES = 500


def unit(path: Path) -> str:
    """The part of the package a file belongs to: its folder, or its own name."""
    relative = path.relative_to(SOURCE)
    return relative.parts[0] if len(relative.parts) > 1 else relative.stem


def imports(path: Path, text: str | None = None) -> set[str]:
    """Which parts of the package a file imports, wherever in the file."""
    text = path.read_text(encoding="utf-8") if text is None else text
    package = ("batchnorm", *path.relative_to(SOURCE).parts[:-1])
    found = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            target = [*base, *(node.module.split(".") if node.module else [])]
            names = [[*target, alias.name] for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name.split(".") for alias in node.names]
        else:
            continue
        found |= {name[1] for name in names if name[0] == "batchnorm" and len(name) > 1}
    return found & set(RANK)


@pytest.mark.parametrize("path", FILES, ids=IDS)
def test_imports_run_downward(path):
    mine = unit(path)
    upward = {
        other
        for other in imports(path) - {mine}
        if RANK[other] >= RANK[mine] and not (RANK[mine] == 0 and other in BASE)
    }
    assert not upward, f"{mine} must not import {sorted(upward)}"


def test_a_wrong_import_would_be_seen():
    wrong = "from ..nn import BatchNorm1d\nfrom .. import study\nimport batchnorm.report.page\n"
    assert imports(SOURCE / "ops" / "any.py", wrong) == {"nn", "study", "report"}


@pytest.mark.parametrize("path", FILES, ids=IDS)
def test_files_are_short(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= LINES


def test_report_needs_no_torch_and_only_records_and_errors():
    used = {name for path in FILES if unit(path) == "report" for name in imports(path)}
    assert used - {"report"} <= {"records", "errors"}


def test_nothing_that_ships_imports_the_reference():
    users = [path for path in FILES if "reference" in imports(path) and unit(path) != "reference"]
    assert not users


def test_public_names_are_those_announced():
    assert sorted(batchnorm.__all__) == batchnorm.__all__
    for name in batchnorm.__all__:
        assert getattr(batchnorm, name) is not None
        assert name in dir(batchnorm)
    with pytest.raises(AttributeError, match="has no attribute 'BatchNorm4d'"):
        batchnorm.BatchNorm4d  # noqa: B018
