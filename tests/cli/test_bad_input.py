"""Bad input gets one clear sentence and exit code 2: what, expected, found, what to do."""

import sys

import pytest

from batchnorm.cli import run

NET = """
import torch
from torch import nn

def make():
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))

def takes_norm(norm):
    return nn.Sequential(nn.Linear(4, 8), norm(8), nn.ReLU(), nn.Linear(8, 3))

def not_a_module():
    return {"layers": 3}

def raises():
    raise RuntimeError("no weights here")

def hidden():
    class Hidden(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Linear(4, 8), nn.Linear(8, 3)
        def forward(self, x):
            for _ in range(2):  # one layer, called twice
                y = torch.relu(self.first(x))
            return self.last(y)
    return Hidden()

def images():
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(3))

def two_outputs():
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))

def frozen():
    return make().requires_grad_(False)

def parts(n=40, classes=3, width=4):
    g = torch.Generator().manual_seed(n)
    return torch.randn(n, width, generator=g), torch.arange(n) % classes

def data():
    return parts(100), parts(20)

def negative_label():
    x, y = parts(100)
    y[7] = -1
    return (x, y), parts(20)

def large_label():
    x, y = parts(100)
    y[7] = 9
    return (x, y), parts(20)

def float_labels():
    x, y = parts(100)
    return (x, y.float()), parts(20)

def nan():
    x, y = parts(100)
    x[5, 2] = float("nan")
    return (x, y), parts(20)

def infinite():
    x, y = parts(20)
    x[3, 1] = float("inf")
    return parts(100), (x, y)

def empty_test():
    return parts(100), (torch.empty(0, 4), torch.empty(0, dtype=torch.int64))

def empty_dataset():
    return parts(100), torch.utils.data.TensorDataset(*parts(0))

def only_one():
    return parts(100)[0]

def unequal():
    x, y = parts(100)
    return (x, y[:50]), parts(20)

def other_width():
    return parts(100), parts(20, width=5)

def strings():
    return "train.csv", "test.csv"

def broken_loader():
    class Broken(torch.utils.data.Dataset):
        def __len__(self): return 10
        def __getitem__(self, i): raise ValueError("cannot decode")
    return Broken(), parts(20)
"""

MINE = ("--model", "net.py:make", "--data", "net.py:data")


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    (tmp_path / "net.py").write_text(NET)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path.copy())
    return tmp_path


def with_data(name):
    return ("--model", "net.py:make", "--data", f"net.py:{name}")


def with_model(name):
    return ("--model", f"net.py:{name}", "--data", "net.py:data")


CASES = {
    "no such file": (("--model", "nat.py:make"), "there is no file 'nat.py'"),
    "no such callable": (("--model", "net.py:mak"), "net.py has no 'mak'; its callables are"),
    "no colon": (("--model", "net.py"), "expected path/to/file.py:callable"),
    "no module": (with_model("not_a_module"), "expected a torch.nn.Module, found dict"),
    "factory raises": (with_model("raises"), "raised RuntimeError: no weights here"),
    "opaque model": (with_model("hidden"), "make(norm) calls norm(num_features)"),
    "wrong input shape": (with_model("images"), "raised RuntimeError"),
    "too few outputs": (with_model("two_outputs"), "label 2 is out of range: the network has 2"),
    "nothing to train": (with_model("frozen"), "no parameter to train"),
    "negative label": (with_data("negative_label"), "label -1 at index 7 is out of range"),
    "label too large": (with_data("large_label"), "label 9 is out of range: the network has 3"),
    "labels not whole": (with_data("float_labels"), "expected one whole class number"),
    "NaN": (with_data("nan"), "the training set: sample 5 contains NaN"),
    "infinity": (with_data("infinite"), "the test set: sample 3 contains an infinite value"),
    "empty test set": (with_data("empty_test"), "the test set has size 0"),
    "empty dataset": (with_data("empty_dataset"), "the test set has size 0"),
    "one set": (with_data("only_one"), "expected data() to return (training set, test set)"),
    "unequal": (with_data("unequal"), "100 inputs but 50 labels"),
    "other width": (with_data("other_width"), "expected the same"),
    "file names": (with_data("strings"), "expected (inputs, labels) tensors, a Dataset or a"),
    "broken dataset": (with_data("broken_loader"), "reading it raised ValueError: cannot decode"),
    "rate 0": (("--lr", "0"), "--lr 0: a learning rate must be a finite number above 0"),
    "negative rate": (("--lr", "0.1", "-1"), "--lr -1: a learning rate must be"),
    "infinite rate": (("--lr", "inf"), "--lr inf: a learning rate must be a finite"),
    "NaN rate": (("--lr", "nan"), "--lr nan: a learning rate must be a finite"),
    "rate as text": (("--lr", "0.1", "fast"), "--lr 'fast': a learning rate must be a number"),
    "no seeds": (("--seeds", "0"), "--seeds 0: expected at least 1"),
    "few steps": (("--steps", "5"), "--steps 5: expected at least 10"),
    "batch of one": (("--batch-size", "1"), "expected at least 2: batch statistics need"),
    "batch too large": ((*MINE, "--batch-size", "90"), "the training part has only 80 samples"),
    "unknown inputs": (("--inputs", "zscore"), "expected one of standardize, minmax, raw"),
    "model without data": (("--model", "net.py:make"), "raised RuntimeError"),
    "no jobs": (("--jobs", "0"), "--jobs 0: expected at least 1"),
}


@pytest.mark.parametrize("case", CASES)
def test_bad_input_is_one_sentence_and_exit_code_2(case, capsys, folder):
    arguments, message = CASES[case]
    assert run(["study", "--out", "results", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert message in captured.err
    assert "Traceback" not in captured.err
    assert not (folder / "results" / "trials").exists()


def test_a_text_where_a_whole_number_belongs_is_exit_code_2(capsys):
    assert run(["study", "--seeds", "many"]) == 2
    assert "'--seeds'" in capsys.readouterr().err


def test_an_unknown_command_is_exit_code_2(capsys):
    assert run(["studdy"]) == 2
    assert "studdy" in capsys.readouterr().err


@pytest.mark.parametrize("content", [None, "{", '{"schema": 1}', "\x00"])
def test_report_of_what_is_no_study_is_exit_code_2(content, capsys, folder):
    results = folder / "results"
    results.mkdir()
    if content is not None:
        (results / "results.json").write_text(content)
    assert run(["report", "results"]) == 2
    error = capsys.readouterr().err
    assert "results" in error
    assert "Traceback" not in error
    assert not (results / "report.html").exists()
