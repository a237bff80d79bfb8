"""The headline tests of the study once more, where PyTorch may use older instructions only.

What a training run amounts to depends on the order in which sums are rounded. This shows how much.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from batchnorm.records import StudyResult, from_json

from ..data import Row

SETTINGS = {
    "study": "as `make study`, with ATEN_CPU_CAPABILITY=avx2 in the environment",
}


def rows() -> Iterator[Row]:
    """Run the study, and yield its headline tests."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "batchnorm", "study", "--out", folder]
        environment = {**os.environ, "ATEN_CPU_CAPABILITY": "avx2"}
        subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
        text = (Path(folder) / "results.json").read_text(encoding="utf-8")
    yield from of_study(from_json(StudyResult, text))


def of_study(study: StudyResult) -> Iterator[Row]:
    """The headline tests of a study, one a row."""
    for claim in study.claims:
        for test in claim.tests:
            e = test.headline
            row = {"processor": study.versions["processor"], "test": test.id}
            yield {**row, "verdict": e.verdict, "mean": e.mean, "low": e.low, "high": e.high}
