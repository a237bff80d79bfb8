"""Every example in the repository runs."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from batchnorm.records import StudyResult, from_json

ROOT = Path(__file__).parent.parent


def run_study(arguments, folder, out):
    """Run the command as it is documented, with one seed and few steps."""
    arguments[arguments.index("--seeds") + 1] = "1"
    arguments[arguments.index("--out") + 1] = str(out)
    done = subprocess.run(
        [sys.executable, "-m", "batchnorm", *arguments, "--steps", "60", "--batch-size", "16"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    result = from_json(StudyResult, (out / "results.json").read_text())
    assert result.counts.failed == 0, result.failures
    assert max(run.test_accuracy or 0 for run in result.runs) > 0.9


@pytest.mark.slow
def test_the_example_of_ones_own_network(tmp_path):
    text = (ROOT / "examples" / "iris.py").read_text()
    said = re.search(r'"""[^\n]*\n\n(batchnorm study .*?)\n"""', text, re.DOTALL)[1]
    run_study(said.replace("\\\n", " ").split()[1:], ROOT, tmp_path / "results")


@pytest.mark.slow
def test_the_network_of_the_documentation(tmp_path):
    text = (ROOT / "docs" / "study.md").read_text()
    (tmp_path / "net.py").write_text(re.search(r"```python\n(.*?)```", text, re.DOTALL)[1])
    said = re.search(r"^(batchnorm study --model net.py.*)$", text, re.MULTILINE)[1]
    run_study(said.split()[1:], tmp_path, tmp_path / "results")


def test_what_the_readme_links_to_is_there():
    links = re.findall(r"\]\(([^)#]+)\)", (ROOT / "README.md").read_text())
    missing = [link for link in links if not (ROOT / link).exists()]
    assert links
    assert not missing


def test_make_help_shows_every_target():
    done = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True)
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert targets == set(re.findall(r"^  make ([a-z-]+)", done.stdout, re.MULTILINE))


def test_the_package_says_one_version():
    import batchnorm

    project = (ROOT / "pyproject.toml").read_text()
    assert f'version = "{batchnorm.__version__}"' in project
    assert f"## {batchnorm.__version__}" in (ROOT / "CHANGELOG.md").read_text()
