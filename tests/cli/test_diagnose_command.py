"""`batchnorm diagnose`: a verdict, a table, JSON, a page, and an exit code."""

import json
import sys

import pytest
import torch

import batchnorm as bn
from batchnorm.cli import run
from batchnorm.records import DiagnosisResult, from_json

NET = """
import torch
from torch import nn
import batchnorm as bn

def make():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4, bias=False), bn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2))

def healthy():
    model = make()
    bn.recalibrate(model, data())
    return model

def without():
    return nn.Linear(3, 2)

def data():
    generator = torch.Generator().manual_seed(0)
    return [(2 + torch.randn(64, 3, generator=generator), torch.arange(64) % 2) for _ in range(6)]

def dicts():
    return [{"images": x} for x, _ in data()]

def of_dict(model, batch):
    return model(batch["images"])

def loss(output, batch):
    return nn.functional.cross_entropy(output, batch[1])

def no_loss(output, batch):
    return 3

def sgd(model):
    return torch.optim.SGD(model.parameters(), lr=0.1)

def no_optimizer(model):
    return model

def stops():
    yield data()[0]
    raise KeyboardInterrupt

def breaks():
    yield data()[0]
    raise ValueError("cannot decode")

def nothing():
    return []
"""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    (tmp_path / "net.py").write_text(NET)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path.copy())
    return tmp_path


def command(*more, **options):
    chosen = {"model": "net.py:make", "data": "net.py:data"} | options
    return run(["diagnose", *(a for n, v in chosen.items() for a in (f"--{n}", v)), *more])


def test_an_error_is_exit_code_1(capsys):
    assert command() == 1
    said = capsys.readouterr().out
    assert "in the 1 batch normalization layer" in said.splitlines()[0]
    assert "why:" in said and "do: " in said
    assert "running mean" in said and "BatchNorm1d(4)" in said


def test_a_healthy_network_is_exit_code_0(capsys):
    assert command(model="net.py:healthy") == 0
    assert "Nothing is wrong with the 1 batch normalization layer" in capsys.readouterr().out


def test_no_batch_normalization_is_no_error(capsys):
    assert command(model="net.py:without") == 0
    assert "There is no batch normalization in this model" in capsys.readouterr().out


def test_json_is_all_of_it(capsys):
    assert command("--json", loss="net.py:loss") == 1
    result = from_json(DiagnosisResult, capsys.readouterr().out)
    assert result.findings[0].severity == "error"
    assert result.layers[0].quantities["error_rms"] > 0
    assert result.settings["batches"] == "6 of 6"


def test_files_and_their_page_drawn_again(folder, capsys):
    assert command(out="d.json", html="d.html") == 1
    said = capsys.readouterr().out
    assert "saved: d.json" in said and "saved: d.html" in said
    page = (folder / "d.html").read_bytes()
    (folder / "d.html").unlink()
    assert run(["report", "d.json"]) == 0
    assert (folder / "d.html").read_bytes() == page
    assert "in the 1 batch normalization layer" in capsys.readouterr().out
    assert sorted(path.name for path in folder.glob("d.*")) == ["d.html", "d.json"]


def test_weights_are_loaded(folder):
    from batchnorm.loading import load

    torch.save(load("net.py:healthy", "--model")().state_dict(), "in.pt")
    assert command(weights="in.pt") == 0
    assert command(weights="in.pt", replica="in.pt") == 0


def test_options_are_passed_on(capsys):
    options = {"data": "net.py:dicts", "forward": "net.py:of_dict", "optimizer": "net.py:sgd"}
    assert command("--json", "--max-batches", "2", **options) == 1
    settings = json.loads(capsys.readouterr().out)["settings"]
    assert (settings["batches"], settings["optimizer"]) == ("2 of 6", "SGD")


def test_ctrl_c_writes_nothing(folder, capsys):
    assert command(data="net.py:stops", out="d.json", html="d.html") == 130
    assert "nothing was written" in capsys.readouterr().err
    assert list(folder.glob("d.*")) == []


CASES = {
    "no data": ({"data": "net.py:nothing"}, "at least one batch"),
    "data breaks": ({"data": "net.py:breaks"}, "raised ValueError: cannot decode"),
    "keys": ({"data": "net.py:dicts"}, "pass forward="),
    "loss": ({"loss": "net.py:no_loss"}, "expected loss(output, batch)"),
    "optimizer": ({"optimizer": "net.py:no_optimizer"}, "expected a torch.optim.Optimizer"),
    "no callable": ({"loss": "net.py:lost"}, "net.py has no 'lost'"),
    "no folder": ({"html": "none/d.html"}, "found no folder 'none'"),
    "a folder": ({"out": "."}, "found a folder"),
    "weights": ({"weights": "none.pt"}, "there is no such file"),
    "batches": ({"max-batches": "0"}, "expected max_batches"),
}


@pytest.mark.parametrize(("options", "message"), CASES.values(), ids=CASES.keys())
def test_bad_input_is_one_sentence(options, message, folder, capsys):
    before = sorted(folder.iterdir())
    assert command(**options) == 2
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error
    assert sorted(p for p in folder.iterdir() if p.name != "__pycache__") == before


def test_another_json_is_refused(folder, capsys):
    (folder / "d.json").write_text('{"findings": []}')
    assert run(["report", "d.json"]) == 2
    assert "is not the result of a diagnosis" in capsys.readouterr().err
    assert run(["report", "none.json"]) == 2
    assert "there is no file 'none.json'" in capsys.readouterr().err


def test_the_python_function_gives_the_same(folder, capsys):
    from batchnorm.loading import load

    command("--json")
    said = json.loads(capsys.readouterr().out)
    net, data = (load(f"net.py:{name}", "")() for name in ("make", "data"))
    found = json.loads(bn.diagnose(net, data).to_json())
    for name in ("findings", "layers", "verdict"):
        assert said[name] == found[name]
