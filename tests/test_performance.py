"""docs/performance.md says what the saved rows say."""

import sys

import pytest

from batchnorm.records import to_json
from report import sample_bench
from scripts import load


@pytest.fixture(scope="module")
def document():
    return load("document")


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


def test_without_rows_of_a_gpu_the_page_says_that_there_was_none(document):
    assert document.page().endswith(document.NO_GPU)
    assert "Not measured: no GPU was at hand." in document.NO_GPU


def test_rows_of_a_gpu_have_a_section_of_their_own(document, tmp_path, monkeypatch):
    monkeypatch.setattr(document, "RESULTS", tmp_path)
    (tmp_path / "gpu-imagined.json").write_text(to_json(sample_bench.gpu()), encoding="utf-8")
    (tmp_path / "one.json").write_text(to_json(sample_bench.bench()), encoding="utf-8")
    text = document.page()
    on_cpu, on_gpu = text.split("\n## On a GPU\n")
    assert "## Results: one" in on_cpu
    assert "Imagined GPU" not in on_cpu
    assert "no GPU was at hand" not in text
    assert "## Results: gpu-imagined\n\nGPU: Imagined GPU; driver: 999.1;" in on_gpu
    # copy 2.57 ms, floor 2.5 of it; eager 5 floors, ours a third of it, 8 passes instead of 5
    row = "| 32×64×112×112 cl | 6.43 | 10.7 | ±5 % | 0.500 | 96 % | 3.0x | 9e-7 |"
    assert row in on_gpu
    assert "| eager ms | ± | host ms | % copy | by | error |" in on_gpu
    assert "| cuDNN | 3e-7 |" in on_gpu
    assert "### training step of ResNet-50, float32\n\n| shape | ours ms |" in on_gpu
    assert "| 256×3×224×224 cl | 100 | ±5 % | 1.5x | 150 | ±5 % |" in on_gpu
    assert "| times faster than PyTorch eager | float32 | 1.50 | 3.00 | 3.00 |" in on_gpu
    assert "- CUDA graph: a captured training step replays the same bits\n" in on_gpu
    assert "- FAILED: ResNet-50 bfloat16: RuntimeError: gone\n" in on_gpu
