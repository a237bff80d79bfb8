"""What the teaching pages say is what the records say, and what they quote is there."""

import inspect
import re
from math import exp

import pages
import pytest
from pages import prose
from teaching.__main__ import faults, main
from teaching.data import DOCS, ROOT, study
from teaching.figures import drawings
from teaching.fill import MARKED, PAGES, filled, misplaced, stale
from teaching.numbers import value

from batchnorm import reference

TASKS = ("start.md", "train.md")
"""They have numbers, too; the rest about them is in test_tasks.py."""
TEACHING = [path for path in PAGES if path.is_relative_to(DOCS) and path.name not in TASKS]
IDS = [str(path.relative_to(DOCS)) for path in TEACHING]
QUOTED = re.compile(r'```python title="reference.py"\n# (\w+)\n(.*?)```', re.DOTALL)
TESTS = {test.id: test for claim in study().claims for test in claim.tests}
CELLS = {(test.id, cell.label): cell for test in TESTS.values() for cell in test.cells}


@pytest.fixture(params=TEACHING, ids=IDS)
def text(request):
    return request.param.read_text(encoding="utf-8")


def test_there_are_all_the_pages():
    assert sorted(IDS) == [
        "mathematics.md",
        "promises/covariate_shift.md",
        "promises/dying_relus.md",
        "promises/gradients.md",
        "promises/index.md",
        "promises/learning_rates.md",
        "promises/regularization.md",
        "standardize.md",
    ]


def test_figures_and_numbers_are_those_of_the_records():
    assert list(faults()) == []


def test_another_record_would_be_seen():
    now = value("1a / effect")
    text = "It is <!-- = 1a / effect -->99x<!-- / --> better."
    assert list(stale(text)) == [f"'1a / effect': said '99x', is '{now}'"]
    assert filled(text) == f"It is <!-- = 1a / effect -->{now}<!-- / --> better."
    with pytest.raises(KeyError, match="no number has the name '1a / size'"):
        filled("<!-- = 1a / size -->?<!-- / -->")


def test_a_mark_that_would_hide_prose_is_seen():
    line = "one\n<!-- = 1a / effect -->13.7x<!-- / --> better"
    assert list(misplaced(line)) == [f"line 2 begins with a mark: {line.splitlines()[1]!r}"]
    table = "<!-- = table / 1a -->\n\n| a |\n\n<!-- / -->\n"
    assert list(misplaced(table)) == []
    assert len(list(misplaced("one <!-- = 1a / effect -->13.7x better"))) == 1


def test_images_are_there_and_are_described(text, request):
    assert pages.poor_images(request.node.callspec.id, text) == []


def test_every_figure_is_shown():
    texts = [path.read_text(encoding="utf-8") for path in DOCS.rglob("*.md")]
    shown = {name for text in texts for name in re.findall(r"figures/([\w-]+)\.svg", text)}
    assert {drawing.name for drawing in drawings()} == shown


def test_links_lead_to_files_and_headings(text, request):
    assert pages.links(text)
    assert pages.broken_links(request.node.callspec.id, text) == []


def test_papers_are_linked_by_their_own_numbers(text):
    for said, linked in re.findall(r"\[arXiv:([\d.]+)\]\(https://arxiv.org/abs/([\d.]+)\)", text):
        assert said == linked


def test_code_is_run_by_the_tests(text):
    """Blocks are sessions, quotations of the specification, or commands that need a user's file."""
    assert not re.search(r"\n\n    \S", prose(text)), "code that is indented has no language"
    for info, code in re.findall(r"^```([^\n]*)\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        if info.startswith("bash"):
            assert "needs your net.py" in info or re.fullmatch(r"(make [a-z]+\n)+", code)
        elif info == "python":
            assert code.startswith(">>> ")
            assert code.endswith("\n\n"), "doctest wants an empty line"
        else:
            assert info == 'python title="reference.py"'


def test_the_command_is_that_of_the_study():
    """Which another test runs."""
    options = set(re.findall(r"--[a-z]+", (DOCS / "study.md").read_text(encoding="utf-8")))
    for path in TEACHING:
        commands = re.findall(r"^batchnorm study(.*?)^```", path.read_text(), re.M | re.S)
        assert all(set(re.findall(r"--[a-z]+", command)) <= options for command in commands)


def test_every_page_says_what_is_next(text):
    assert pages.headings(text)[-1] == "Next"


def test_folded_answers_are_supported():
    for name in ("mathematics.md", "promises/index.md"):
        text = (DOCS / name).read_text(encoding="utf-8")
        answers = re.findall(r"<details .*?</summary>(.*?)</details>", text, re.DOTALL)
        assert len(answers) >= 5
        assert text.count("<details") == text.count("</details>") == len(answers)
        assert all(">>> " in answer for answer in answers)


def test_quoted_lines_are_in_the_specification():
    quotes = QUOTED.findall((DOCS / "mathematics.md").read_text(encoding="utf-8"))
    assert len(quotes) >= 10
    for function, code in quotes:
        source = [
            line.strip() for line in inspect.getsource(getattr(reference, function)).splitlines()
        ]
        for line in code.splitlines():
            assert any(found == line or found.startswith(line + "  #") for found in source), line


def test_every_line_of_a_paper_is_quoted():
    """What `moments`, `forward`, `backward_train` and `merge` take from a paper is explained."""
    text = (DOCS / "mathematics.md").read_text(encoding="utf-8")
    quoted = {line for _, code in QUOTED.findall(text) for line in code.splitlines()}
    for function in (reference.moments, reference.forward, reference.backward_train):
        lines = inspect.getsource(function).splitlines()
        cited = [line.partition("  #")[0].strip() for line in lines if "# [IS]" in line]
        assert cited
        assert set(cited) <= quoted


PROSE = {
    ("2", "sigmoid, at initialization"): "supported",
    ("2", "relu, at initialization"): "contradicted",
    ("2", "sigmoid, after 100 steps"): "inconclusive",
    ("2", "relu, after 100 steps"): "inconclusive",
    ("1b", "relu, each arm at its own learning rate"): "inconclusive",
    ("1b", "sigmoid, each arm at its own learning rate"): "supported",
}
"""Words of cells that sentences rest on."""

HEADLINES = {
    "1a": "supported",
    "1b": "supported",
    "2": "depends",
    "3a": "supported",
    "3b": "supported",
    "4": "inconclusive",
    "5": "inconclusive",
}


def test_sentences_rest_on_the_verdicts_of_the_record():
    assert {name: test.headline.verdict for name, test in TESTS.items()} == HEADLINES
    assert {key: CELLS[key].verdict for key in PROSE} == PROSE
    assert "p = 0.05" in TESTS["4"].headline.reason  # supported but for the correction
    low, high = TESTS["5"].headline.low, TESTS["5"].headline.high
    assert low < 0 < high
    dead = [d for d in study().dead_units if d.arm == "batch norm" and d.activation == "relu"]
    assert dead
    assert all(d.born_dead == d.died == 0 for d in dead)


def test_the_readme_agrees_with_the_record():
    """Verdict words are the same; effects, of whatever run, lie within the intervals."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    rows = re.findall(
        r"^\|[^|\n]*\|([^|\n]*)\|([^|\n]*)\|([^|\n]*)\|[^|\n]*\|$", text, re.MULTILINE
    )
    by_name = {test.name.lower(): test for test in TESTS.values()}
    found = {}
    for name, verdict, effect in rows:
        plain = re.sub(r"^\d[ab] ", "", name.strip())
        plain = {"largest stable rate": "largest stable learning rate"}.get(plain, plain)
        if plain in by_name:
            found[plain] = (by_name[plain], verdict.strip(), effect.strip())
    assert len(found) == len(TESTS)
    for test, verdict, effect in found.values():
        plain = MARKED.sub(lambda mark: mark["said"], effect)
        number = float(re.sub(r"(x| points)$", "", plain).replace("−", "-"))
        assert verdict == test.headline.verdict
        assert _plain(test.headline.low, test) <= number <= _plain(test.headline.high, test)


def _plain(value, test):
    return exp(value) if test.scale == "ratio" else 100 * value


def test_the_command_says_what_is_wrong(capsys):
    assert main(["check"]) == 0
    assert "are as the records are" in capsys.readouterr().out
    with pytest.raises(SystemExit) as stopped:
        main(["measure", "nothing"])
    assert stopped.value.code == 2
    assert "unknown: nothing; there are: depth, hidden," in capsys.readouterr().err


def test_nothing_that_ships_imports_the_package():
    sources = [path.read_text(encoding="utf-8") for path in (ROOT / "src").rglob("*.py")]
    assert sources
    assert not any(re.search(r"^\s*(from|import) teaching", text, re.MULTILINE) for text in sources)
