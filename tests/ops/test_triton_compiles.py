"""What Triton's compiler makes of the kernels, for GPUs that need not be there."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).with_name("triton_compiler.py")


@pytest.fixture(scope="module", params=[(80, "fp16"), (90, "bf16"), (120, "fp32")])
def found(request, tmp_path_factory):
    """For every kernel and plan: registers, bytes spilled, bytes of the widest access."""
    pytest.importorskip("triton", reason="needs Triton")
    capability, dtype = request.param
    environment = {**os.environ, "TRITON_CACHE_DIR": str(tmp_path_factory.mktemp("cache"))}
    environment.pop("TRITON_INTERPRET", None)
    done = subprocess.run(
        [sys.executable, "-W", "error", PROGRAM, str(capability), dtype],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


@pytest.mark.slow
def test_every_kernel_compiles_and_keeps_what_it_needs_in_registers(found):
    assert len(found) > 50
    spilled = {name: seen["spilled"] for name, seen in found.items() if seen["spilled"]}
    assert [name for name in spilled if "odd planes" not in name] == []
    assert max(spilled.values(), default=0) <= 16  # bytes a thread


@pytest.mark.slow
def test_aligned_tensors_are_read_and_written_sixteen_bytes_at_a_time(found):
    narrow = {name for name, seen in found.items() if seen["bytes"] < 16}
    # 14·14 values of half precision begin at multiples of 8 bytes, odd planes anywhere.
    expected = ("odd planes", "16, planes of 14 x 14", "merge", "total", "one ")
    assert [name for name in narrow if not any(part in name for part in expected)] == []
