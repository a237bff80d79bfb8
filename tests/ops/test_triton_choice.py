"""Where the kernels for GPUs are chosen, and what is said where they are not."""

import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from batchnorm import ops
from batchnorm.cli import run
from batchnorm.ops import dispatch, triton


@pytest.fixture
def gpu(monkeypatch):
    """A machine with a GPU and with Triton, as far as those are asked."""
    monkeypatch.setattr(triton, "_reasons", {})
    monkeypatch.setattr(triton, "_kernels", {})
    monkeypatch.delenv(triton.VARIABLE, raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setitem(sys.modules, "triton", SimpleNamespace(__version__="3.6.0"))


def tensor(dtype=torch.float32, shape=(8, 4, 3)):
    """What the dispatch asks of a tensor on a GPU."""
    numel = torch.Size(shape).numel()
    device = torch.device("cuda", 0)
    return SimpleNamespace(
        is_cpu=False, is_cuda=True, dtype=dtype, shape=shape, numel=lambda: numel, device=device
    )


@pytest.mark.usefixtures("gpu")
def test_a_gpu_that_can_be_served_has_no_reason_against_it():
    assert triton.reason(0) is None


REASONS = {
    "switched off": (
        lambda patch: patch.setenv("BATCHNORM_TRITON", "0"),
        "the environment variable BATCHNORM_TRITON is 0",
    ),
    "no GPU": (
        lambda patch: patch.setattr(torch.cuda, "is_available", lambda: False),
        "there is no GPU that PyTorch can use",
    ),
    "AMD": (
        lambda patch: patch.setattr(torch.version, "hip", "6.4"),
        "they have not been tried on AMD GPUs",
    ),
    "old GPU": (
        lambda patch: patch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5)),
        "they need a GPU of compute capability 8.0, found 7.5",
    ),
    "no Triton": (
        lambda patch: patch.setitem(sys.modules, "triton", None),
        "Triton cannot be imported (import of triton halted; None in sys.modules); "
        "pip install 'batchnorm[triton]'",
    ),
    "old Triton": (
        lambda patch: patch.setitem(sys.modules, "triton", SimpleNamespace(__version__="3.3.1")),
        "they need Triton 3.4, found 3.3.1",
    ),
}


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize(("change", "said"), REASONS.values(), ids=REASONS)
def test_a_gpu_that_cannot_be_served_goes_to_pytorchs_kernels(change, said, monkeypatch):
    change(monkeypatch)
    assert triton.reason(0) == said
    x = tensor()
    assert triton.kernels(x) is None
    assert dispatch.own(x) is None
    assert dispatch.kernels(x) is ops.aten


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("dtype", [torch.float64, torch.int32], ids=str)
def test_other_dtypes_are_not_for_them(dtype):
    assert triton.kernels(tensor(dtype)) is None


@pytest.mark.usefixtures("gpu")
def test_tensors_below_the_least_size_and_channels_beyond_32_bits_are_not_for_them(monkeypatch):
    chosen = object()
    monkeypatch.setattr(triton, "_load", lambda index: chosen)
    assert triton.kernels(tensor()) is chosen
    assert triton.kernels(tensor(shape=(2**31, 2))) is None
    monkeypatch.setattr(triton, "LEAST_VALUES", 97)
    assert triton.kernels(tensor()) is None
    assert triton.kernels(tensor(shape=(97, 1))) is chosen


def test_the_command_says_why_there_are_none(capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(triton, "_reasons", {})
    assert run(["env"]) == 0
    assert "there is no GPU that PyTorch can use" in " ".join(capsys.readouterr().out.split())


def test_layers_are_imported_without_a_compiler():
    """Which would take longer than all that is ours."""
    code = (
        "import sys, batchnorm; batchnorm.BatchNorm2d; "
        "print([name for name in ('torch._dynamo', 'triton') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
