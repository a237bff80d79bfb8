"""The notebooks: equal to their scripts, saved with outputs, and right from top to bottom."""

import re

import nbformat
import pytest

from . import example

execute = example("execute")
each = pytest.mark.parametrize("name", execute.NAMES)


def saved(name):
    return nbformat.read(execute.saved(name), as_version=4)


def outputs(notebook):
    return [output for cell in notebook.cells for output in cell.get("outputs", [])]


def test_every_script_is_a_notebook():
    assert {path.stem for path in execute.FOLDER.glob("*.py")} == set(execute.NAMES)
    assert {path.stem for path in execute.FOLDER.glob("*.ipynb")} == set(execute.NAMES)


@each
def test_the_notebook_is_its_script(name):
    made, found = execute.source(name), saved(name)
    nbformat.validate(found)
    assert [(c.cell_type, c.source, c.id) for c in found.cells] == [
        (c.cell_type, c.source, c.id) for c in made.cells
    ]
    assert found.metadata == made.metadata


@each
def test_it_was_saved_after_a_run_from_top_to_bottom(name):
    code = [cell for cell in saved(name).cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))


@each
def test_what_is_saved_is_no_warning_and_no_path_of_a_machine(name):
    for output in outputs(saved(name)):
        assert output.output_type != "error"
        assert output.get("name") != "stderr"
        text = output.get("text") or "".join(output.data.values())
        assert not re.search(r"/tmp|/home|/root|/work|[Ww]arning|Traceback", text)


@each
def test_it_teaches_and_checks(name):
    cells = saved(name).cells
    prose = [cell.source for cell in cells if cell.cell_type == "markdown"]
    code = "\n".join(cell.source for cell in cells if cell.cell_type == "code")
    assert sum(len(text.split()) for text in prose) > 250
    assert "## What we saw" in prose[-1]
    assert len(re.findall(r"^ *assert ", code, re.MULTILINE)) >= 5
    assert not re.search(r"^(from|import) (shared|pictures|files)\b", code, re.MULTILINE)


@pytest.mark.slow
@each
def test_it_runs(name):
    found = execute.execute(execute.source(name))
    assert len(outputs(found)) >= 4
    kinds = [(output.output_type, output.get("name")) for output in outputs(found)]
    assert kinds == [(output.output_type, output.get("name")) for output in outputs(saved(name))]


def test_a_notebook_that_is_wrong_fails():
    from nbclient.exceptions import CellExecutionError

    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("assert 1 == 2")])
    with pytest.raises(CellExecutionError, match="AssertionError"):
        execute.execute(notebook)
