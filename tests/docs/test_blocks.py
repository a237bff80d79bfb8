"""Every block of code in the pages is run by a test, or is of a kind that is checked here."""

import re
import shlex
from pathlib import Path

import pytest
from typer.main import get_command

from batchnorm.cli import app

ROOT = Path(__file__).parents[2]
PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for path in (*(ROOT / "docs").rglob("*.md"), ROOT / "README.md", ROOT / "CONTRIBUTING.md")
}
BLOCK = re.compile(
    r"^(?P<indent> *)(?P<fence>`{3,}|~{3,})(?P<info>[^\n]*)\n(?P<code>.*?)^ *(?P=fence)[ \t]*$",
    re.MULTILINE | re.DOTALL,
)

RUN_BY = {
    ("docs/port.md", "def carry_over("): "tests/port/test_network.py",
    ("docs/ship.md", "import torch\nfrom torch"): "tests/docs/test_tasks.py",
    ("docs/study.md", "import torch\nfrom sklearn"): "tests/test_examples.py",
}
"""Code that is no session, by its page and beginning: the test that runs it, as the page has it."""

KINDS = {
    "python": "a session, which doctest runs; or a name in RUN_BY",
    'python title="reference.py"': "quoted lines, which test_teaching_pages.py looks for there",
    'python title="net.py"': "a file of the reader's, which a test in RUN_BY takes from the page",
    "python title=": "code that needs what its title names: it must be Python",
    "bash": "commands: program, targets, options and files must exist",
    "bash title=": "commands that need what the title names: checked in the same way",
    "text": "what a program prints, a list of files, or a drawing: nothing that can be run",
}
"""The kinds of blocks there are, and what vouches for each."""

OTHERS = {"batchnorm", "dask", "make", "pip", "python", "torchrun"}
"""Programs that pages may call."""

BLOCKS = [(page, found) for page, text in PAGES.items() for found in BLOCK.finditer(text)]


def of_kind(kind):
    """The blocks of a kind, as the arguments of a test."""
    chosen = [(page, b["info"], b["code"]) for page, b in BLOCKS if kind_of(b["info"]) == kind]
    names = [f"{page}-{number}" for number, (page, _, _) in enumerate(chosen)]
    return pytest.mark.parametrize(("page", "info", "code"), chosen, ids=names)


def kind_of(info):
    """The key in KINDS of what stands behind a fence."""
    return info if info in KINDS else re.sub(r'title="needs [^"]+"$', "title=", info)


def test_every_block_is_of_a_declared_kind():
    unknown = [(page, b["info"]) for page, b in BLOCKS if kind_of(b["info"]) not in KINDS]
    assert unknown == []
    assert len(BLOCKS) > 150


def test_no_code_is_indented_instead_of_fenced():
    """Such code has no language, and nobody would run it."""
    found = {
        page: re.findall(r"\n\n( {4}\S.*)", BLOCK.sub("", text)) for page, text in PAGES.items()
    }
    assert {page: lines for page, lines in found.items() if lines} == {}


@of_kind("python")
def test_python_is_a_session_or_run_by_another_test(page, info, code):
    if code.startswith(">>> "):
        assert code.endswith("\n\n"), "doctest wants an empty line before the fence"
        assert page != "CONTRIBUTING.md", "pytest does not collect this page"
    else:
        is_run_by_another_test(page, code)


def is_run_by_another_test(page, code):
    (test,) = [
        path for (where, start), path in RUN_BY.items() if (where, code.find(start)) == (page, 0)
    ]
    assert Path(page).stem in (ROOT / test).read_text(encoding="utf-8")


@of_kind('python title="net.py"')
def test_a_file_of_the_reader_is_run_by_another_test(page, info, code):
    is_run_by_another_test(page, code)


def test_every_test_that_is_named_has_its_block():
    for page, start in RUN_BY:
        assert any(where == page and b["code"].startswith(start) for where, b in BLOCKS), start


@of_kind("python title=")
def test_python_that_needs_something_is_python(page, info, code):
    compile(code, page, "exec")


@of_kind("bash")
def test_commands_exist(page, info, code):
    for line in lines(code):
        check(line)


@of_kind("bash title=")
def test_commands_that_need_something_exist(page, info, code):
    for line in lines(code):
        check(line)


@of_kind("text")
def test_text_is_no_code_in_disguise(page, info, code):
    assert ">>> " not in code
    assert not code.startswith(("$ ", "import ", "from ", "make ", "pip "))


def lines(code):
    """The commands of a block, each as its words; comments are gone."""
    found = [shlex.split(line, comments=True) for line in code.replace("\\\n", " ").splitlines()]
    return [words for words in found if words]


def check(words):
    """Refuse a command that cannot be called like that."""
    while re.fullmatch(r"[A-Z_]+=.*", words[0]):
        words = words[1:]
    program, *rest = words[0].removeprefix(".venv/bin/"), *words[1:]
    assert program in OTHERS, f"{program} is no program that pages call"
    if program == "make":
        targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
        assert {word for word in rest if "=" not in word} <= targets, rest
    elif program in ("python", "torchrun"):
        scripts = [word for word in rest if word.endswith(".py")]
        assert all((ROOT / script).is_file() for script in scripts), rest
        assert scripts or rest[0] == "-m", rest
    elif program == "pip":
        check_extras(rest)
    elif program == "batchnorm":
        check_options(rest)


def check_extras(words):
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    for extra in re.findall(r"batchnorm\[([a-z,]+)\]", " ".join(words)):
        assert all(f"\n{name} = [" in text for name in extra.split(",")), words


def check_options(words):
    commands = get_command(app).commands
    assert words[0] in {*commands, "--help"}, words
    if words[0] in commands:
        known = {option for p in commands[words[0]].params for option in p.opts + p.secondary_opts}
        given = {word.partition("=")[0] for word in words if word.startswith("--")}
        assert given <= known | {"--help"}, given - known


@pytest.mark.parametrize(
    "line",
    [
        "make nothing",
        "python examples/nothing.py",
        "batchnorm nothing",
        "batchnorm study --nothing 1",
        "pip install 'batchnorm[nothing]'",
        "curl example.org",
    ],
)
def test_a_command_that_does_not_exist_is_seen(line):
    with pytest.raises(AssertionError):
        check(shlex.split(line))
