"""`batchnorm recalibrate`: a file of tensors in, the same with new statistics out."""

import json
import pickle
import sys
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from torch import nn

import batchnorm as bn
from batchnorm.cli import run
from batchnorm.records import from_json
from batchnorm.surgery import Recalibration

NET = """
import torch
from torch import nn
import batchnorm as bn

def make():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), bn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2))

def frozen():
    model = make()
    bn.freeze(model)
    return model

def data():
    return [(torch.full((n, 3), float(n)) + torch.arange(3 * n).view(n, 3), 0) for n in (5, 9, 1)]

def dicts():
    return [{"images": x} for x, _ in data()]

def of_dict(model, batch):
    return model(batch["images"])

def stops():
    yield data()[0]
    raise KeyboardInterrupt

def breaks():
    yield data()[0]
    raise ValueError("cannot decode")

def no_module():
    return 3

def raises():
    raise RuntimeError("no weights here")

def tensor():
    return torch.zeros(3, 3)

def nothing():
    return []

def wide():
    return [torch.zeros(4, 7)]
"""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    (tmp_path / "net.py").write_text(NET)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path.copy())
    torch.save(network().state_dict(), tmp_path / "in.pt")
    return tmp_path


def network():
    torch.manual_seed(7)
    model = nn.Sequential(nn.Linear(3, 4), bn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2))
    model(torch.randn(16, 3))
    return model


def batches():
    return [torch.full((n, 3), float(n)) + torch.arange(3 * n).view(n, 3) for n in (5, 9, 1)]


def command(*more, **options):
    chosen = {"model": "net.py:make", "data": "net.py:data", "weights": "in.pt", "out": "out.pt"}
    chosen.update(options)
    return run(["recalibrate", *(a for n, v in chosen.items() for a in (f"--{n}", v)), *more])


def expected():
    model = network()
    bn.recalibrate(model, batches())
    return model.state_dict()


def assert_same(found, wanted):
    assert list(found) == list(wanted)
    for name, tensor in wanted.items():
        assert found[name].dtype is tensor.dtype and torch.equal(found[name], tensor), name


@pytest.mark.parametrize("how", [(), ("--json",), ("--forward", "net.py:of_dict")])
def test_the_file_has_the_statistics_of_all_data(how, capsys, folder):
    data = "net.py:dicts" if "--forward" in how else "net.py:data"
    before = (folder / "in.pt").read_bytes()
    assert command(*how, data=data) == 0
    found = torch.load("out.pt", weights_only=True)
    assert_same(found, expected())
    assert found._metadata == network().state_dict()._metadata
    assert (folder / "in.pt").read_bytes() == before
    said = capsys.readouterr().out
    if "--json" in how:
        assert from_json(Recalibration, said).layers[0].values == 15
    else:
        assert "1: 15 values" in said and "written: out.pt" in said
    assert sorted(path.name for path in folder.glob("*.pt")) == ["in.pt", "out.pt"]


def test_passes_and_tolerance_are_passed_on(capsys):
    assert command("--passes", "0", "--tolerance", "0.1", "--json") == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["passes"], said["converged"]) == (1, False)


def test_the_dtypes_of_the_file_stay():
    torch.save({n: t.bfloat16() if t.is_floating_point() else t for n, t in _saved()}, "half.pt")
    assert command(weights="half.pt") == 0
    found = torch.load("out.pt", weights_only=True)
    assert {t.dtype for t in found.values()} == {torch.bfloat16, torch.int64}
    torch.testing.assert_close(
        found["1.running_mean"].float(), expected()["1.running_mean"], rtol=0.02, atol=0.1
    )


def _saved():
    return network().state_dict().items()


def test_nothing_is_overwritten_without_force(folder, capsys):
    (folder / "out.pt").write_text("precious")
    assert command() == 2
    assert (
        "there already; choose another name, or overwrite with --force" in capsys.readouterr().err
    )
    assert (folder / "out.pt").read_text() == "precious"
    assert command("--force") == 0
    assert_same(torch.load("out.pt", weights_only=True), expected())
    assert command(out="in.pt") == 2
    assert command("--force", out="in.pt") == 0
    assert_same(torch.load("in.pt", weights_only=True), expected())


def test_ctrl_c_writes_nothing(folder, capsys):
    assert command(data="net.py:stops") == 130
    assert "nothing was written" in capsys.readouterr().err
    assert not (folder / "out.pt").exists()


class Evil:
    def __reduce__(self):
        return print, ("executed",)


def test_a_file_that_would_execute_code_is_refused(folder, capsys):
    torch.save({"0.weight": Evil()}, "evil.pt")
    (folder / "raw.pt").write_bytes(pickle.dumps(Evil(), protocol=2))
    for name in ("evil.pt", "raw.pt"):
        assert command(weights=name) == 2
        captured = capsys.readouterr()
        assert "nothing else in a file is executed" in captured.err
        assert "executed" not in captured.out
    assert not (folder / "out.pt").exists()


CASES = {
    "no file": ({"weights": "none.pt"}, "there is no such file"),
    "not torch": ({"weights": "net.py"}, "--weights 'net.py'"),
    "a checkpoint": ({"weights": "whole.pt"}, "found a dictionary of 'epoch', 'model'"),
    "a tensor": ({"weights": "tensor.pt"}, "found Tensor"),
    "another model": ({"weights": "other.pt"}, "does not fit --model 'net.py:make'"),
    "no folder": ({"out": "nowhere/out.pt"}, "found no folder 'nowhere'"),
    "a folder": ({"out": "."}, "found a folder"),
    "no module": ({"model": "net.py:no_module"}, "expected a torch.nn.Module, found int"),
    "factory raises": ({"model": "net.py:raises"}, "raised RuntimeError: no weights here"),
    "no such callable": ({"data": "net.py:dada"}, "net.py has no 'dada'"),
    "one tensor": ({"data": "net.py:tensor"}, "expected batches, such as a list"),
    "no batches": ({"data": "net.py:nothing"}, "at least one batch"),
    "too wide": ({"data": "net.py:wide"}, "running the model on the data raised RuntimeError"),
    "data breaks": ({"data": "net.py:breaks"}, "raised ValueError: cannot decode"),
    "keys": ({"data": "net.py:dicts"}, "pass forward="),
    "passes": ({"passes": "-1"}, "expected passes"),
}


@pytest.mark.parametrize(("options", "message"), CASES.values(), ids=CASES.keys())
def test_bad_input_is_one_sentence_and_nothing_is_written(options, message, folder, capsys):
    torch.save({"epoch": torch.tensor(3), "model": network().state_dict()}, "whole.pt")
    torch.save(torch.zeros(3), "tensor.pt")
    torch.save(OrderedDict(x=torch.zeros(3)), "other.pt")
    assert command(**options) == 2
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error
    assert not (folder / "out.pt").exists()


def test_a_model_that_is_all_frozen_is_a_failed_check(folder, capsys):
    assert command(model="net.py:frozen") == 1
    assert "nothing to recalibrate" in capsys.readouterr().err
    assert not (folder / "out.pt").exists()


def test_a_full_disk_leaves_no_half_file(folder, capsys, monkeypatch):
    def full(state, path):
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    assert command() == 2
    assert "No space left on device" in capsys.readouterr().err
    assert [path.name for path in folder.glob("*out*")] == []


def test_files_of_safetensors():
    safetensors = pytest.importorskip("safetensors.torch")
    safetensors.save_file(network().state_dict(), "in.safetensors")
    assert command(weights="in.safetensors", out="out.safetensors") == 0
    wanted = expected()
    found = safetensors.load_file("out.safetensors")
    assert_same({name: found[name] for name in wanted}, wanted)


def test_safetensors_that_is_missing_is_named(folder, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors", None)
    (folder / "in.safetensors").write_bytes(b"")
    assert command(weights="in.safetensors") == 3
    assert "pip install safetensors" in capsys.readouterr().err


def test_a_file_of_safetensors_that_is_none(folder, capsys):
    pytest.importorskip("safetensors.torch")
    (folder / "in.safetensors").write_bytes(b"\xff" * 64)
    assert command(weights="in.safetensors") == 2
    assert "cannot be read as a file of safetensors" in capsys.readouterr().err
