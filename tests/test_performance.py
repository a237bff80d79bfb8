"""docs/performance.md says what the saved rows say."""

import importlib.util
import sys
from pathlib import Path

import pytest

from batchnorm.records import to_json
from report import sample_bench

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def document():
    spec = importlib.util.spec_from_file_location("document", ROOT / "benchmarks" / "document.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_current(document):
    found = document.PATH.read_text(encoding="utf-8")
    assert found == document.page(), "run: make performance"


def test_rows_become_tables(document, tmp_path, monkeypatch):
    monkeypatch.setattr(document, "RESULTS", tmp_path)
    assert "There are no rows yet" in document.page()
    (tmp_path / "one.json").write_text(to_json(sample_bench.bench()), encoding="utf-8")
    (tmp_path / "two.json").write_text(to_json(sample_bench.stopped()), encoding="utf-8")
    text = document.page()
    assert "## Results: one\n\nprocessor: Imagined 9000; threads: 2;" in text
    assert "| ours faster than PyTorch eager | 3.0x (1.3x) | 3.0x (1.3x) |" in text
    assert "\n### BN+add+ReLU, float32\n\n| shape | floor ms | ours ms | ± | × floor |" in text
    assert "\n| 32×256×14×14 cl | 0.404 | 0.690 | ±5 % | 1.7x | 3.0x | 9e-7 |" in text
    assert "| fwd |" not in text
    assert f"- oneDNN: {sample_bench.WHY} (4 cells)\n" in text
    assert "took: 5 min 12 s.\n" in text
    assert "**Other programs used 40 % of the processors meanwhile" in text
    assert "PARTIAL" in text
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert all(line.endswith(" |") for line in rows)


def test_the_page_needs_no_torch(document):
    names = document.__dict__
    assert not {"torch", "bench"} & set(names)
    assert document.speeds.__name__ in sys.modules
