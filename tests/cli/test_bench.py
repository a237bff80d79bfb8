"""`batchnorm bench` as a user runs it. No test here asks how fast anything is."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from batchnorm.cli import run
from batchnorm.records import BenchResult, from_json

TINY = ("--shape", "4,20,3,3", "--shape", "16x5", "--time", "0.001")


def test_a_run_prints_saves_and_draws(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run(["bench", *TINY, "--out", "mine.json", "--html", "mine.html"]) == 0
    printed = capsys.readouterr()
    result = from_json(BenchResult, (tmp_path / "mine.json").read_text())
    assert not result.partial
    assert {row.shape for row in result.timings} == {(4, 20, 3, 3), (16, 5)}
    assert {row.layout for row in result.timings} == {"contiguous", "channels-last"}
    assert {row.operation for row in result.timings} == {
        "bn",
        "bn+relu",
        "bn+add+relu",
        "inference",
    }
    for expected in ("BN+add+ReLU, float32", "4×20×3×3 cl", "16×5", "Geometric means", "finished"):
        assert expected in printed.out
    assert "saved: mine.json" in printed.out
    assert "12 of 12: inference 16×5 contiguous float32: ours" in printed.err
    page = (tmp_path / "mine.html").read_text()
    assert "4×20×3×3" in page
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine.html", "mine.json"]

    # Drawn again from what was saved, the page is the same to the byte.
    assert run(["report", "mine.json"]) == 0
    assert (tmp_path / "mine.html").read_text() == page


def test_json_goes_to_stdout_alone(capsys):
    arguments = ("--operation", "bn", "--layout", "contiguous", "--dtype", "bfloat16")
    assert run(["bench", *TINY, *arguments, "--json"]) == 0
    printed = capsys.readouterr()
    result = from_json(BenchResult, printed.out)
    assert set(json.loads(printed.out)) == set(BenchResult.__dataclass_fields__)
    assert {(row.operation, row.dtype) for row in result.timings} == {("bn", "bfloat16")}
    assert "2 cells" in printed.err


BAD = {
    "shape": (("--shape", "32"), "--shape 32: expected 2 to 5 sizes"),
    "operation": (("--operation", "relu"), "--operation relu: expected one of bn, bn+relu"),
    "dtype": (("--dtype", "float16"), "--dtype float16: expected one of float32, bfloat16"),
    "layout": (("--layout", "nhwc"), "--layout nhwc: expected one of contiguous, channels-last"),
    "device": (("--device", "tpu"), "--device tpu: expected cpu, cuda"),
    "threads": (("--threads", "0"), "--threads 0: expected at least 1"),
    "time": (("--time", "-1"), "--time -1: expected a number of seconds above 0"),
    "folder": (("--out", "."), "--out '.': expected the name of a file, found a folder"),
    "no folder": (("--html", "no/bench.html"), "found no folder 'no'"),
    "suffix": (("--out", "bench.txt"), "--out 'bench.txt': expected a name that ends in .json"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_options_are_one_sentence_and_exit_code_2(name, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments, message = BAD[name]
    assert run(["bench", *arguments]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert message in printed.err
    assert printed.err.count("\n") == 2
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_without_a_gpu_it_is_one_sentence_and_exit_code_3(device, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run(["bench", "--device", device, "--dtype", "float16", "--out", "gpu.json"]) == 3
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith(f"batchnorm: --device {device}: expected a GPU that PyTorch can")
    assert printed.err.endswith("\nSee docs/errors.md#DeviceError\n")
    assert printed.err.count("\n") == 2
    assert not list(tmp_path.iterdir())


@pytest.mark.gpu
def test_a_gpu_is_measured(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    arguments = ("--device", "cuda", "--dtype", "float16", "--html", "gpu.html")
    assert run(["bench", *TINY, *arguments, "--out", "gpu.json"]) == 0
    result = from_json(BenchResult, (tmp_path / "gpu.json").read_text())
    assert result.machine["GPU"] == torch.cuda.get_device_name()
    rows = [r for r in result.timings if r.variant in ("ours", "kernel", "eager")]
    assert {r.dtype for r in rows} == {"float16"}
    assert all(r.ms > 0 and r.host_ms > 0 and r.copy_share > 0 for r in rows)
    assert "% copy" in capsys.readouterr().out
    assert torch.cuda.get_device_name() in (tmp_path / "gpu.html").read_text()


@pytest.mark.parametrize("content", [None, "{", "[]", '{"schema": 1}'])
def test_report_of_what_is_no_benchmark_is_exit_code_2(content, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if content is not None:
        (tmp_path / "bench.json").write_text(content)
    assert run(["report", "bench.json"]) == 2
    error = capsys.readouterr().err
    assert "bench.json" in error
    assert "benchmark" in error
    assert not (tmp_path / "bench.html").exists()


def test_ctrl_c_shows_and_saves_what_was_measured(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-m", "batchnorm", "bench", "--quick", "--out", "bench.json"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    end = time.monotonic() + 60
    while not (tmp_path / "bench.json").exists() and time.monotonic() < end:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGINT)
    out, error = process.communicate(timeout=60)
    assert process.returncode == 130, error
    assert "Traceback" not in error
    result = from_json(BenchResult, (tmp_path / "bench.json").read_text())
    assert result.partial
    assert result.timings
    assert "stopped, PARTIAL" in out
    assert [path.name for path in tmp_path.iterdir()] == ["bench.json"]


def test_help_answers_without_torch():
    code = (
        "import sys; from batchnorm.cli import run; run(['bench', '--help']);"
        "assert 'torch' not in sys.modules, 'torch was imported'"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for option in ("--shape", "--operation", "--compile", "--threads", "--out", "--html", "--json"):
        assert option in done.stdout


@pytest.mark.slow
def test_torch_compile_is_measured_where_it_is_asked_for():
    arguments = ("--shape", "16,5", "--operation", "bn+relu", "--time", "0.001")
    done = subprocess.run(
        [sys.executable, "-m", "batchnorm", "bench", *arguments, "--compile", "--json"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    rows = [r for r in from_json(BenchResult, done.stdout).timings if r.variant == "compile"]
    assert [row.phase for row in rows] == ["forward", "backward", "both"]
    for row in rows:
        assert (row.missing, row.ms is not None) == ("", True) or "Compiler" in row.missing
