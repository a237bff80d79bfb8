"""The user's callables are found, and what is wrong with them is said in one sentence."""

import sys

import pytest

from batchnorm.errors import UsageError
from batchnorm.loading import fingerprint, load


@pytest.fixture
def net(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path.copy())
    (tmp_path / "helper.py").write_text("VALUE = 7\ndef borrowed(): pass\n")
    (tmp_path / "net.py").write_text(
        "from helper import VALUE, borrowed\ndef make(): return VALUE\nN = 3\n"
    )
    return tmp_path / "net.py"


def test_a_file_is_imported_with_its_neighbors(net):
    assert load(f"{net}:make", "--model")() == 7
    assert load("net.py:make", "--model")() == 7


def test_a_file_is_executed_once(net):
    assert load(f"{net}:make", "--model") is load("net.py:make", "--data")


def test_a_module_is_imported_by_name():
    assert load("math:sqrt", "--model")(9) == 3


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("net.py", "expected path/to/file.py:callable"),
        (":make", "expected path/to/file.py:callable"),
        ("missing.py:make", "there is no file 'missing.py'"),
        ("net.py:mke", r"net.py has no 'mke'; its callables are: make\n"),
        ("net.py:N", "'N' is a int, expected a function"),
        ("no_such_module:make", "importing no_such_module raised ModuleNotFoundError"),
        ("bad.py:make", "importing bad.py raised SyntaxError"),
        ("raises.py:make", "importing raises.py raised ValueError: no good"),
    ],
)
def test_what_is_wrong_is_said(net, spec, message):
    (net.parent / "bad.py").write_text("def make(:\n")
    (net.parent / "raises.py").write_text("raise ValueError('no good')\n")
    with pytest.raises(UsageError, match=f"--model .*{message}"):
        load(spec, "--model")


def test_a_file_that_raised_is_read_again(net):
    path = net.parent / "later.py"
    path.write_text("raise ValueError\n")
    with pytest.raises(UsageError):
        load("later.py:make", "--model")
    path.write_text("def make(): return 1\n")
    assert load("later.py:make", "--model")() == 1


def test_the_fingerprint_follows_the_source(net):
    before = fingerprint(f"{net}:make")
    assert fingerprint(f"{net}:other") == before
    net.write_text(net.read_text() + "# changed\n")
    assert fingerprint(f"{net}:make") != before
    assert fingerprint("json:dumps") != fingerprint("math:sqrt")
