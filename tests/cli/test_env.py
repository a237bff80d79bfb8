"""`batchnorm env` says what the dispatch does, and, where the compiled kernels are missing, why."""

import json
import os
import subprocess
import sys

import pytest

from batchnorm.cli import run
from batchnorm.ops import native


def facts(capsys) -> dict[str, str]:
    assert run(["env", "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def without_library(*arguments: str) -> str:
    """The output of the command where the library does not exist."""
    changed = {**os.environ, "BATCHNORM_CPU_LIBRARY": "/nowhere/lib.so", "COLUMNS": "300"}
    command = [sys.executable, "-m", "batchnorm", "env", *arguments]
    return subprocess.run(command, env=changed, capture_output=True, text=True, check=True).stdout


@pytest.mark.native
def test_compiled_kernels_are_named_with_what_they_use(capsys):
    found = facts(capsys)
    library = native.loaded()
    assert found["compiled kernels"].startswith(f"{library.instructions}, ")
    assert "MiB of last-level cache" in found["compiled kernels"]
    assert str(library.path) in found["compiled kernels"]
    assert found["float32 on the CPU"] == found["bfloat16 on the CPU"] == "compiled kernels"


def test_other_cases_say_why_the_compiled_kernels_do_not_serve(capsys):
    found = facts(capsys)
    assert found["float64, float16 on the CPU"] == (
        "PyTorch's kernels; the compiled kernels take float32 and bfloat16"
    )
    assert found["other devices"].startswith("plain PyTorch operations; ")
    assert found["in vmap, grad, jvp"].startswith("plain PyTorch operations; ")


def test_missing_kernels_are_explained():
    found = json.loads(without_library("--json"))
    assert found["compiled kernels"].startswith("none: ")
    said = "names /nowhere/lib.so, and there is no such file. Unset it"
    assert said in found["compiled kernels"]
    assert "make native" not in found["compiled kernels"]
    assert found["float32 on the CPU"] == "PyTorch's kernels; the compiled kernels are missing"


def test_kernels_that_were_not_built_say_how_to_build_them(capsys, monkeypatch):
    monkeypatch.setattr(native, "library", lambda: None)
    monkeypatch.setattr(native, "reason", lambda: "it was not built")
    assert "it was not built. With a C++ compiler" in facts(capsys)["compiled kernels"]


def test_the_table_says_the_same_as_the_json(capsys):
    found = json.loads(without_library("--json"))
    table = without_library()
    assert all(name in table for name in found)
    assert found["float32 on the CPU"] in table
