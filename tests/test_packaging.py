"""The source distribution builds a wheel for every Python, with a compiler and without."""

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
LIBRARY = "batchnorm/_native/libbatchnorm_cpu"
TRY = """
import torch, batchnorm
from batchnorm.ops import dispatch, native
x = torch.randn(8, 64, 32, 32)
y = batchnorm.BatchNorm2d(64)(x)
assert (y - torch.nn.functional.batch_norm(x, None, None, training=True)).abs().max() < 1e-5
print(batchnorm.__file__, dispatch.fused(x) is not None, native.reason(), sep="\\n")
"""


@pytest.fixture(scope="module")
def sdist(tmp_path_factory) -> Path:
    pytest.importorskip("scikit_build_core")
    folder = tmp_path_factory.mktemp("sdist")
    build = f"from scikit_build_core.build import build_sdist; build_sdist({str(folder)!r})"
    subprocess.run([sys.executable, "-c", build], cwd=ROOT, check=True, capture_output=True)
    (path,) = folder.iterdir()
    return path


def build(sdist: Path, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Build a wheel, without optimization, which is fast to compile, and without the network."""
    pip = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index"]
    command = [*pip, "--config-settings=cmake.build-type=Debug", "--wheel-dir", folder, sdist]
    changed = {**os.environ, **environment}
    return subprocess.run(command, env=changed, capture_output=True, text=True, check=False)


def make_wheel(sdist: Path, folder: Path, **environment: str) -> zipfile.ZipFile:
    done = build(sdist, folder, **environment)
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = folder.glob("*.whl")
    return zipfile.ZipFile(path)


def tried(wheel: zipfile.ZipFile, folder: Path) -> list[str]:
    """What `TRY` prints when it runs in a wheel, hiding the editable install."""
    wheel.extractall(folder)
    paths = os.pathsep.join([str(folder), sysconfig.get_path("platlib")])
    changed = {**os.environ, "PYTHONPATH": paths}
    changed.pop("BATCHNORM_CPU_LIBRARY", None)
    command = [sys.executable, "-S", "-c", TRY]
    done = subprocess.run(command, cwd=folder, env=changed, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def python_files(names: list[str]) -> set[str]:
    return {name for name in names if name.startswith("batchnorm/") and name.endswith(".py")}


def expected_files() -> set[str]:
    source = ROOT / "src"
    return {path.relative_to(source).as_posix() for path in source.rglob("*.py")}


def test_sdist_has_what_a_build_and_its_tests_need(sdist):
    with tarfile.open(sdist) as archive:
        names = {name.split("/", 1)[1] for name in archive.getnames() if "/" in name}
    for path in ("csrc/batchnorm_cpu.h", "csrc/kernels_avx2.cpp", "CMakeLists.txt", "Makefile"):
        assert path in names
    for path in ("constraints.txt", "tests/csrc/driver.cpp", "tests/test_packaging.py"):
        assert path in names
    made = ("build/", "src/batchnorm/_native", ".venv", "results/")
    assert not [name for name in names if name.startswith(made) or "__pycache__" in name]


def test_wheel_serves_every_python_and_has_the_library(sdist, tmp_path):
    if shutil.which(os.environ.get("CXX", "c++")) is None:
        if "BATCHNORM_REQUIRE_NATIVE" in os.environ:
            pytest.fail("no C++ compiler found")
        pytest.skip("no C++ compiler found")
    wheel = make_wheel(sdist, tmp_path / "wheel")
    platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
    assert Path(wheel.filename).name.endswith(f"-py3-none-{platform}.whl")
    names = wheel.namelist()
    assert [name for name in names if "/_native/" in name] == [LIBRARY + ".so"]
    assert python_files(names) == expected_files()
    assert "batchnorm/report/templates/page.html" in names and "batchnorm/py.typed" in names
    assert all(name.startswith(("batchnorm/", "batchnorm-")) for name in names)
    file, fused, reason = tried(wheel, tmp_path / "installed")
    assert Path(file).is_relative_to(tmp_path) and (fused, reason) == ("True", "None")


def test_without_a_compiler_a_wheel_without_the_library_works(sdist, tmp_path):
    wheel = make_wheel(sdist, tmp_path / "wheel", CXX="/nonexistent", BATCHNORM_REQUIRE_NATIVE="")
    assert Path(wheel.filename).name.endswith("-py3-none-any.whl")
    assert not [name for name in wheel.namelist() if "_native" in name]
    assert python_files(wheel.namelist()) == expected_files()
    file, fused, reason = tried(wheel, tmp_path / "installed")
    assert Path(file).is_relative_to(tmp_path) and fused == "False"
    assert "was not built" in reason


def test_where_the_library_must_be_an_install_without_a_compiler_fails(sdist, tmp_path):
    done = build(sdist, tmp_path, CXX="/nonexistent", BATCHNORM_REQUIRE_NATIVE="1")
    assert done.returncode != 0
    assert "CMake configuration failed" in done.stdout + done.stderr
