"""`batchnorm fold`: a network and its weights in, the same without normalizations out."""

import json
import sys
from pathlib import Path

import pytest
import torch

import batchnorm as bn
from batchnorm.cli import run
from batchnorm.records import from_json
from batchnorm.surgery.folding.summary import Folding

NET = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4)
        self.last = nn.BatchNorm2d(4)

    def forward(self, x, bias=None):
        y = self.norm(self.conv(x)).relu()
        return self.last(y if bias is None else y + bias)

def make():
    torch.manual_seed(0)
    return Net()

def plain():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())

def no_module():
    return 3

def raises():
    raise RuntimeError("no weights here")

def data():
    yield torch.ones(2, 3, 5, 5), torch.zeros(2)
    raise ValueError("only the first is asked for")

def dicts():
    return [{"x": torch.ones(2, 3, 5, 5), "bias": torch.ones(4, 1, 1)}]

def views():
    return torch.full((64, 3, 5, 5), 7.0).split(2)

def nothing():
    return []

def breaks():
    yield 1 / 0

def tensor():
    return torch.ones(2, 3, 5, 5)

def stops():
    raise KeyboardInterrupt
"""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    (tmp_path / "net.py").write_text(NET)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path.copy())
    torch.save(network().state_dict(), tmp_path / "in.pt")
    return tmp_path


def network():
    """The network of the file, with statistics and affine parameters of its own."""
    space = {}
    exec(NET, space)
    model = space["make"]()
    generator = torch.Generator().manual_seed(1)
    for norm in (model.norm, model.last):
        for tensor in (norm.running_mean, norm.running_var, norm.weight, norm.bias):
            tensor.data.uniform_(0.5, 1.5, generator=generator)
    return model.eval()


X = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))


def expected(x=X):
    with torch.no_grad():
        return network()(x)


def command(*more, **options):
    chosen = {"model": "net.py:make", "weights": "in.pt", "example": "2x3x6x6", "out": "out.pt"}
    chosen.update(options)
    given = [(name, value) for name, value in chosen.items() if value is not None]
    return run(["fold", *(part for n, v in given for part in (f"--{n}", v)), *more])


def assert_folded(state):
    """The state_dict is that of the network without its first normalization."""
    names = ["conv.weight", "conv.bias", "last.weight", "last.bias"]
    names += ["last.running_mean", "last.running_var", "last.num_batches_tracked"]
    assert sorted(state) == sorted(names)
    fresh = bn.fold(load(), X).model.eval()
    fresh.load_state_dict(state)
    torch.testing.assert_close(fresh(X), expected())


def load():
    space = {}
    exec(NET, space)
    return space["make"]()


@pytest.mark.parametrize("how", [(), ("--json",), ("--data", "net.py:dicts")], ids=str)
def test_the_file_loads_into_a_folded_network_of_the_same_factory(how, capsys, folder):
    before = (folder / "in.pt").read_bytes()
    assert command(*how, example=None if "--data" in how else "2x3x6x6") == 0
    assert_folded(torch.load("out.pt", weights_only=True))
    assert (folder / "in.pt").read_bytes() == before
    said = capsys.readouterr().out
    if "--json" in how:
        found = from_json(Folding, said)
        assert (found.folded, len(found.changes), found.written) == (1, 2, "out.pt")
    else:
        assert "norm: fold into Conv2d 'conv' (nothing else reads its output)" in said
        assert "last: leave alone (" in said
        assert "1 of 2 normalizations folded\nwritten: out.pt" in said
    assert sorted(path.name for path in folder.glob("*.pt*")) == ["in.pt", "out.pt"]


def test_files_of_safetensors():
    safetensors = pytest.importorskip("safetensors.torch")
    safetensors.save_file(network().state_dict(), "in.safetensors")
    assert command(weights="in.safetensors", out="out.safetensors") == 0
    assert_folded(safetensors.load_file("out.safetensors"))


def test_only_the_first_batch_is_the_example():
    assert command(example=None, data="net.py:data") == 0


def test_a_dry_run_writes_nothing(folder, capsys):
    assert command("--dry-run", out=None) == 0
    assert "1 of 2 normalizations folded\nnothing was written" in capsys.readouterr().out
    assert command("--dry-run", "--json", out="in.pt") == 0
    assert json.loads(capsys.readouterr().out)["written"] is None
    assert [path.name for path in folder.glob("*.pt*")] == ["in.pt"]


def test_a_network_as_it_was_made_needs_no_weights():
    assert command(weights=None) == 0
    wanted = load().conv.weight / (1 + 1e-5) ** 0.5
    torch.testing.assert_close(torch.load("out.pt", weights_only=True)["conv.weight"], wanted)


def test_a_program_of_export_needs_no_factory():
    assert command(out="out.pt2") == 0
    program = torch.export.load("out.pt2")
    operators = [str(node.target) for node in program.graph.nodes]
    assert sum("batch_norm" in operator for operator in operators) == 1
    torch.testing.assert_close(program.module()(X), expected())


def test_the_batch_of_a_program_varies_if_asked():
    assert command("--dynamic-batch", out="out.pt2") == 0
    folded = torch.export.load("out.pt2").module()
    for size in (1, 5):
        x = torch.randn(size, 3, 6, 6)
        torch.testing.assert_close(folded(x), expected(x))


def test_a_program_holds_the_first_batch_and_no_more_of_the_data():
    assert command(data="net.py:views", example=None, out="out.pt2") == 0
    (example,), _ = torch.export.load("out.pt2").example_inputs
    assert torch.equal(example, torch.full((2, 3, 5, 5), 7.0))
    assert example.untyped_storage().nbytes() == example.nbytes


def saved_program(name="in.pt2"):
    dim = torch.export.Dim.DYNAMIC
    shapes = {"x": {0: dim, 3: dim}, "bias": None}
    program = torch.export.export(network(), (X,), {"bias": None}, dynamic_shapes=shapes)
    torch.export.save(program, name)


def test_a_program_is_folded_and_its_axes_vary_as_before():
    saved_program()
    chosen = {"model": "in.pt2", "weights": None, "example": None}
    assert command("--trust", **chosen, out="out.pt2") == 0
    folded = torch.export.load("out.pt2")
    assert sum("batch_norm" in str(node.target) for node in folded.graph.nodes) == 1
    for shape in ((2, 3, 6, 6), (1, 3, 6, 9)):
        x = torch.randn(shape)
        torch.testing.assert_close(folded.module()(x, bias=None), expected(x))
    assert command("--trust", **chosen) == 0
    assert_folded(torch.load("out.pt", weights_only=True))


def test_a_program_that_is_not_trusted_is_not_loaded(folder, capsys, monkeypatch):
    saved_program()
    loaded = []
    monkeypatch.setattr(torch.export, "load", loaded.append)
    assert command(model="in.pt2", weights=None) == 2
    assert "can execute code that was put into the file" in capsys.readouterr().err
    assert not loaded
    assert not (folder / "out.pt").exists()


def test_nothing_is_overwritten_without_force(folder, capsys):
    for name in ("out.pt", "out.pt2"):
        (folder / name).write_text("precious")
        assert command(out=name) == 2
        assert "overwrite with --force" in capsys.readouterr().err
        assert (folder / name).read_text() == "precious"
        assert command("--force", out=name) == 0
        assert (folder / name).read_bytes() != b"precious"
    assert command("--force", out="in.pt") == 0
    assert_folded(torch.load("in.pt", weights_only=True))


def test_nothing_to_fold_is_a_failed_check(folder, capsys):
    (folder / "out.pt").write_text("precious")
    assert command("--force", model="net.py:plain", weights=None) == 1
    said = capsys.readouterr()
    assert "nothing to fold" in said.err
    assert "0 of 0 normalizations folded\nnothing was written" in said.out
    assert (folder / "out.pt").read_text() == "precious"


def test_ctrl_c_writes_nothing(folder, capsys):
    assert command(example=None, data="net.py:stops") == 130
    assert "nothing was written" in capsys.readouterr().err
    assert not (folder / "out.pt").exists()


@pytest.mark.parametrize("out", ["out.pt", "out.pt2"])
def test_a_full_disk_leaves_no_half_file(out, folder, capsys, monkeypatch):
    def full(state, path):
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    monkeypatch.setattr(torch.export, "save", full)
    assert command(out=out) == 2
    assert "No space left on device" in capsys.readouterr().err
    assert [path.name for path in folder.glob("*out*")] == []
    assert [path.name for path in folder.glob(".*")] == []


class Evil:
    def __reduce__(self):
        return print, ("executed",)


def test_weights_that_would_execute_code_are_refused(folder, capsys):
    torch.save({"conv.weight": Evil()}, "evil.pt")
    assert command(weights="evil.pt") == 2
    captured = capsys.readouterr()
    assert "nothing else in a file is executed" in captured.err
    assert "executed" not in captured.out
    assert not (folder / "out.pt").exists()


CASES = {
    "no file": ({"weights": "none.pt"}, "there is no such file"),
    "no program": ({"model": "none.pt2", "weights": None}, "there is no such file"),
    "another model": ({"weights": "other.pt"}, "does not fit --model 'net.py:make'"),
    "no folder": ({"out": "nowhere/out.pt"}, "found no folder 'nowhere'"),
    "no out": ({"out": None}, "expected --out FILE"),
    "no module": ({"model": "net.py:no_module"}, "expected a torch.nn.Module, found int"),
    "factory raises": ({"model": "net.py:raises"}, "raised RuntimeError: no weights here"),
    "no example": ({"example": None}, "expected an input to run the network on"),
    "two examples": ({"data": "net.py:data"}, "expected --example or --data, found both"),
    "not a shape": ({"example": "2,3,6,6"}, "expected sizes such as 1x3x224x224"),
    "empty": ({"example": "0x3x6x6"}, "expected sizes such as 1x3x224x224"),
    "huge": ({"example": "99999x3x999x999"}, "expected at most 2^31 numbers"),
    "too small": ({"example": "2x3x1x1"}, "the model does not run on the example"),
    "no batches": ({"example": None, "data": "net.py:nothing"}, "at least one batch"),
    "one tensor": ({"example": None, "data": "net.py:tensor"}, "expected batches, such as a list"),
    "data breaks": ({"example": None, "data": "net.py:breaks"}, "raised ZeroDivisionError"),
    "weights of a program": ({"model": "in.pt2"}, "--weights is of no use"),
}


@pytest.mark.parametrize(("options", "message"), CASES.values(), ids=CASES.keys())
def test_bad_input_is_one_sentence_and_nothing_is_written(options, message, folder, capsys):
    torch.save({"x": torch.zeros(3)}, "other.pt")
    assert command(**options) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert not (folder / "out.pt").exists()


PROGRAMS = {
    "a state_dict": (
        ("--trust",),
        {"model": "raw.pt2"},
        "cannot be read as a file of",
    ),
    "a text": (("--trust",), {"model": "text.pt2"}, "cannot be read as a file of"),
    "no program out": (("--dynamic-batch",), {}, "--dynamic-batch is for programs"),
    "one sample": (
        ("--dynamic-batch",),
        {"out": "out.pt2", "example": "1x3x6x6", "model": "net.py:make"},
        "must have 2 or more places in the example",
    ),
}


@pytest.mark.parametrize(("flags", "options", "message"), PROGRAMS.values(), ids=PROGRAMS.keys())
def test_programs_that_cannot_be(flags, options, message, folder, capsys):
    (folder / "text.pt2").write_text("text")
    (folder / "raw.pt2").write_bytes((folder / "in.pt").read_bytes())
    assert command(*flags, **({"weights": None} | options)) == 2
    assert message in capsys.readouterr().err
    assert list(folder.glob("out.*")) == []


def test_what_cannot_be_exported_says_that_a_state_dict_can_be_written(folder, capsys):
    check = "assert type(x) is torch.Tensor; y = self.norm"  # export traces with another class
    (folder / "odd.py").write_text(NET.replace("y = self.norm", check))
    assert command(model="odd.py:make", out="out.pt2") == 2
    assert "A state_dict can be written all the same" in capsys.readouterr().err
    assert not (folder / "out.pt2").exists()
    assert command(model="odd.py:make") == 0
    assert_folded(torch.load("out.pt", weights_only=True))
