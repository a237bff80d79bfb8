"""The compiled library fits its header, Python's side of it, and its sources."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from batchnorm.ops import native
from elf import Library

ROOT = Path(__file__).parents[1]
HEADER = (ROOT / "csrc" / "batchnorm_cpu.h").read_text(encoding="utf-8")
CODES = {"int64_t": "q", "int32_t": "i", "double": "d"}

linux = pytest.mark.skipif(sys.platform != "linux", reason="reads the format of Linux")


@linux
@pytest.mark.native
def test_library_exports_the_functions_of_the_header_and_nothing_else():
    announced = set(re.findall(r"^BATCHNORM_EXPORT [\w ]+?\*?(\w+)\(", HEADER, re.MULTILINE))
    assert {"batchnorm_train", "batchnorm_instructions"} <= announced
    assert Library(native.loaded().path).exports == announced


@linux
@pytest.mark.native
def test_library_needs_the_system_only():
    needed = {name.split(".")[0] for name in Library(native.loaded().path).needs}
    assert needed <= {"libc", "libm", "libstdc++", "libgcc_s", "ld-linux-x86-64"}


def test_python_packs_the_fields_of_the_header():
    body = re.search(r"typedef struct \{(.*?)\} batchnorm_call;", HEADER, re.DOTALL)
    assert body
    code = ""
    for line in re.sub(r"/\*.*?\*/", "", body[1], flags=re.DOTALL).split(";"):
        names = line.count(",") + 1 if line.strip() else 0
        is_pointer = "*" in line or "batchnorm_parallel_for" in line
        code += names * ("P" if is_pointer else CODES[line.split()[0]] if names else "")
    expected = re.sub(r"(\d+)(\w)", lambda m: int(m[1]) * m[2], native.pack.__self__.format)
    assert "@" + code == expected


def test_python_expects_the_version_of_the_header():
    assert f"BATCHNORM_ABI = {native.ABI} " in HEADER


@pytest.mark.native
def test_library_is_of_the_sources_at_hand():
    build, ninja = ROOT / "build" / "native", Path(sys.executable).parent / "ninja"
    if "BATCHNORM_CPU_LIBRARY" in os.environ or not (build / "build.ninja").exists():
        pytest.skip("the library is not made of the sources here")
    command = [ninja, "-C", build, "-n"]
    plan = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "no work to do" in plan, "the library is older than csrc/; run: make native"
