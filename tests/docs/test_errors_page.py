"""Every error leads to its section of docs/errors.md, and every section is of an error."""

import copy
import inspect
import pickle
import re
import subprocess
import sys
import traceback

import pages
import pytest
import torch
from torch import nn

import batchnorm as bn
from batchnorm import errors
from batchnorm.cli import run
from batchnorm.loading import load

TEXT = pages.read("errors.md")
SECTIONS = pages.sections(TEXT)
CLASSES = [
    value
    for value in vars(errors).values()
    if inspect.isclass(value) and value.__module__ == errors.__name__
]
PARTS = ("What it means", "Usual causes", "What to do")


def test_classes_and_anchors_are_one_to_one():
    assert len(CLASSES) >= 12
    assert all(issubclass(kind, errors.BatchNormError) for kind in CLASSES)
    names = [kind.__name__ for kind in CLASSES]
    assert sorted(pages.anchors(TEXT)) == sorted(names)  # each once
    assert [heading for heading, _ in SECTIONS.values()] == list(SECTIONS) == names


@pytest.mark.parametrize("kind", CLASSES)
def test_an_error_names_its_section(kind):
    error = kind("expected this, found that")
    assert error.page == kind.page == f"docs/errors.md#{kind.__name__}"
    assert str(error) == "expected this, found that"
    lines = traceback.format_exception_only(error)
    assert lines[-1] == f"See docs/errors.md#{kind.__name__}\n"
    assert len(lines) == 2
    file, _, anchor = kind.page.partition("#")
    assert anchor in pages.anchors((pages.DOCS.parent / file).read_text("utf-8"))


@pytest.mark.parametrize("kind", CLASSES)
def test_a_section_says_what_where_from_and_what_to_do(kind):
    _, body = SECTIONS[kind.__name__]
    assert [part for part in PARTS if f"\n**{part}.** " in f"\n{body}"] == list(PARTS)
    assert ">>> " in body
    raised = kind.__name__ if kind is not errors.BatchNormError else "StatisticsError"
    shown = rf"(batchnorm\.errors\.{raised}: |See docs/errors\.md#{raised}\n|^{raised}$)"
    assert re.search(shown, body, re.MULTILINE)


def test_the_table_has_every_class_with_its_base():
    rows = re.findall(r"^\| \[`(\w+)`\]\(#(\w+)\) \| (?:`(\w+)`)? ?\|", TEXT, re.MULTILINE)
    assert [name for name, _, _ in rows] == [kind.__name__ for kind in CLASSES]
    for name, anchor, base in rows:
        kind = getattr(errors, name)
        assert anchor == name
        # The base that is not known from the tree above: the last one.
        assert base == (kind.__bases__[-1].__name__ if name != "CommandError" else "")


def test_exit_codes_are_those_of_the_classes():
    for name, code in re.findall(r"^\| \[`(\w+)`\].*exit code (\d) \|$", TEXT, re.MULTILINE):
        assert getattr(errors, name).exit_code == int(code)
    assert len(re.findall(r"exit code \d \|$", TEXT, re.MULTILINE)) == 5


def test_links_lead_somewhere():
    assert pages.broken_links("errors.md", TEXT) == []
    assert pages.broken_links("errors.md", "[a](none.md) [b](#NoError)") == ["none.md#", "#NoError"]


def test_the_library_emits_no_warnings():
    """As the page says; what would be one is part of a result."""
    assert "The library emits no Python warnings." in TEXT
    sources = [*(pages.DOCS.parent / "src").rglob("*.py")]
    assert len(sources) > 100
    assert not [path for path in sources if "warnings.warn" in path.read_text("utf-8")]


def test_the_last_section_is_next():
    assert re.findall(r"^## (.*)$", TEXT, re.MULTILINE)[-1] == "Next"


@pytest.mark.parametrize("kind", CLASSES)
@pytest.mark.parametrize("shown", [False, True], ids=["new", "after a traceback"])
def test_an_error_survives_another_process_and_a_copy(kind, shown):
    error = kind("expected this, found that")
    if shown:
        traceback.format_exception_only(error)
    for twin in (pickle.loads(pickle.dumps(error)), copy.copy(error), copy.deepcopy(error)):
        assert type(twin) is kind
        assert twin.args == error.args
        assert traceback.format_exception_only(twin) == traceback.format_exception_only(error)


def test_notes_of_others_are_kept():
    error = errors.SyncError("one")
    error.add_note("and another")
    assert pickle.loads(pickle.dumps(error)).__notes__ == [
        "See docs/errors.md#SyncError",
        "and another",
    ]
    assert errors.SyncError("two").__notes__ == ["See docs/errors.md#SyncError"]


def test_a_class_made_elsewhere_has_the_page_of_its_base():
    class TooFewLayersError(errors.SurgeryError):
        pass

    assert TooFewLayersError("no").__notes__ == ["See docs/errors.md#SurgeryError"]


PROVOKED = {
    errors.ShapeError: lambda: bn.BatchNorm2d(3)(torch.randn(2, 4, 5, 5)),
    errors.DtypeError: lambda: bn.BatchNorm1d(3)(torch.ones(2, 3, dtype=torch.long)),
    errors.StatisticsError: lambda: bn.BatchNorm1d(3)(torch.randn(1, 3)),
    errors.OptionError: lambda: bn.BatchNorm1d(3, activation="swish"),
    errors.SurgeryError: lambda: bn.insert(nn.Sequential(nn.Linear(3, 3))),
    errors.PortError: lambda: bn.port.from_keras({}, epsilon=1e-3, momentum=0.9),
    errors.UsageError: lambda: load("none.py:make", "--model"),
}


@pytest.mark.parametrize("kind", PROVOKED)
def test_what_is_raised_in_earnest_names_its_section(kind):
    with pytest.raises(kind) as caught:
        PROVOKED[kind]()
    assert type(caught.value) is kind
    said = "".join(traceback.format_exception(caught.value))
    assert said.endswith(f"\nSee docs/errors.md#{kind.__name__}\n")
    assert said.count("See docs/") == 1


def test_a_compiled_graph_can_still_catch_an_error():
    """Dynamo follows no constructor of an exception; it must meet none here."""
    layer = bn.BatchNorm1d(3)

    def forgiving(x):
        try:
            return layer(x)
        except errors.ShapeError:
            return x + 1

    x = torch.zeros(4, 2)
    compiled = torch.compile(forgiving, fullgraph=True, backend="eager")
    assert torch.equal(compiled(x), x + 1)


@pytest.mark.parametrize(
    ("arguments", "code", "page"),
    [
        (["report", "reslts"], 2, "UsageError"),
        (["fold", "--model", "torch.nn:ReLU", "--example", "1x3", "--dry-run"], 1, "CommandError"),
        (
            ["diagnose", "--model", "torch.nn:LazyBatchNorm1d", "--data", "builtins:list"],
            2,
            "SurgeryError",  # the cause, which says more
        ),
    ],
)
def test_a_command_prints_the_page_on_a_line_of_its_own(arguments, code, page, capsys):
    assert run(arguments) == code
    printed = capsys.readouterr()
    *_, message, see = printed.err.splitlines()
    assert message.startswith("batchnorm: ")
    assert see == f"See docs/errors.md#{page}"
    assert "See docs" not in printed.out


def test_the_program_without_its_dependencies_prints_the_page():
    code = (
        "import sys; sys.modules['typer'] = None; sys.argv = ['batchnorm', 'env']\n"
        "from batchnorm.__main__ import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 3
    assert done.stderr.endswith(
        "pip install 'batchnorm[study]'\nSee docs/errors.md#MissingExtraError\n"
    )
